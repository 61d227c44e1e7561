"""The promises of docs/architecture.md under faults. `python -m tools.chaos` prints figures, and fails when one is broken."""

"""The measurements behind docs/benchmarks.md, one command each. Baselines run in the same minutes: quote ratios."""

"""Tests of the promises of docs/architecture.md under faults: python -m tools.chaos"""

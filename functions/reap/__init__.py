"""Releases orphaned claims, and blocks inactive beads."""

"""Hands waiting beads to the agent service."""

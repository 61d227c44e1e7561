"""Dispatches eligible beads to the agent."""

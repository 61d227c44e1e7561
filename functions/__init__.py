"""The two functions, each scaled to zero between events."""

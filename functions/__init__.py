"""The functions, each scaled to zero between events: thin applications over beads_dispatch."""

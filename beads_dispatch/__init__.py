"""The library: what the applications, the command beads-dispatch and the tools share."""

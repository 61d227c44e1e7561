"""The command beads-dispatch, and two plugins of kn."""

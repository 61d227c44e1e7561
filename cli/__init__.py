"""What people run: `beads-dispatch`, and two plugins of kn. Nothing that is deployed imports it."""

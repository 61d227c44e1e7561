"""Takes back what a crash left, and blocks beads whose agent went silent."""

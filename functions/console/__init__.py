"""The console: pages of what runs, what waits and why, and what happened. Reads only."""

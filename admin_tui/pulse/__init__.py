"""Screen 1: is all well, and if not, where."""

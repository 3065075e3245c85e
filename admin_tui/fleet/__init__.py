"""Screen 2: every process, what it does, and what can be done to it."""

"""Screen 9: what the processes said, by process, level, request, pattern and time."""

"""Screen 7: what is served, how well, with what memory, and what it costs."""

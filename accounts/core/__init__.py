"""Who there is, and how much is left. No socket, clock, file or thread."""

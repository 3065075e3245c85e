"""Screen 8: who talks to whom, and how that goes. Every listening socket, and the peers of the one under the cursor."""

"""Screen 4: requests in hand and just ended, and the timeline that explains one."""

"""What frames every screen: the top bar, the alarm line, the key line and the filter prompt."""

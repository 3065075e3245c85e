"""Screen 6: the page arena. Its map, its pools and tiers, the hottest prefixes, and who holds pages."""

"""Boxes over the screen: before an order is given, and help."""

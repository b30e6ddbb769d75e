"""Experiments drawn at random within limits, and what is made of those that fail."""

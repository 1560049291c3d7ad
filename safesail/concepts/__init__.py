"""Concept sets: read, checked, generated."""

"""Prompts in, parsed answers out. Knows no model, no store and no network."""

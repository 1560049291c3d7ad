"""Explains features and scores the explanations under one budget."""

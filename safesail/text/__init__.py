"""Texts on their way in: reading documents from files, splits by document, windows of tokens. No torch."""

"""One module a format that others read."""

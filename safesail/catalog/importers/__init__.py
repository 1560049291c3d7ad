"""One module a format: each reads files into `Gathered`, and knows nothing of the store."""

"""What features do: edits of a running model, measured against nulls, and put into the store."""

"""SAEs: one protocol (encode to sparse), loaders for what others publish, and saving."""

"""Subject models: aliases, where their files come from, hooks, and runs that stop after the deepest hook."""

"""Train a family of TopK SAEs in one pass of the subject model over the texts."""

"""Stage: an explanation and held-out windows in, a simulation score out."""

"""Stage 2, harvest: the subject model runs over text once, and every SAE's nonzero activations go to the store."""

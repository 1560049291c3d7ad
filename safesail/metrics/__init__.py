"""Pure numerics on numpy arrays: no torch, no files, no clocks; randomness comes in as a seed."""

"""Bins for histograms of activations, and activation levels."""

import numpy as np
from jaxtyping import Float32, Int, Int32, Real


def bin_of(values: Float32[np.ndarray, " n_values"], bits: int) -> Int32[np.ndarray, " n_values"]:
    """Bin of each positive value: its float32 without all but the first `bits` bits of the mantissa.

    Bins are ordered as values are, 2^bits of them an octave.
    """
    return np.ascontiguousarray(values).view(np.int32) >> (23 - bits)


def bin_start(bins: Int32[np.ndarray, " n_bins"], bits: int) -> Float32[np.ndarray, " n_bins"]:
    """Smallest value of each bin; the middle of bin i is where bin 2i + 1 of one bit more starts."""
    return (bins << (23 - bits)).astype(np.int32).view(np.float32)


def levels(values: Real[np.ndarray, "..."], n_levels: int, top: float) -> Int[np.ndarray, "..."]:
    """Activation level of every value: 0 for no activity, then 1 .. `n_levels` in equal steps up to `top`.

    The paper's quantisation of activations "by linear interpolation", with `top` the feature's own
    Q(0.999); larger values have the highest level, and any activity at all has at least level 1.

    Raises:
        ValueError: fewer than one level, or a `top` that is not positive.
    """
    if n_levels < 1 or not top > 0:
        raise ValueError(f"levels need n_levels >= 1 and top > 0, got {n_levels} and {top}")
    steps = np.ceil(np.asarray(values, np.float64) / top * n_levels)
    return np.where(np.asarray(values) > 0, np.clip(steps, 1, n_levels), 0).astype(np.int64)

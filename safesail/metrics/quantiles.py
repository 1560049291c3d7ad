"""Quantiles by linear interpolation between order statistics, and activation levels."""

import numpy as np
from jaxtyping import Int, Real

from safesail.domain.undefined import Undefined


def quantile(values: Real[np.ndarray, " n_values"], q: float) -> float | Undefined:
    """Quantile `q`, in [0, 1], interpolated linearly between the two nearest order statistics."""
    if values.size == 0:
        return Undefined("no values")
    return float(np.quantile(values, q, method="linear"))


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

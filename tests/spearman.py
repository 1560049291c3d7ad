"""Spearman's rank correlation, which only tests and benchmarks ask for."""

import numpy as np
from jaxtyping import Real

from safesail.domain.undefined import Undefined
from safesail.metrics.correlation import pearson, ranks


def spearman(x: Real[np.ndarray, " n"], y: Real[np.ndarray, " n"]) -> float | Undefined:
    """Ties share their mean rank; unchanged by any increasing rescaling."""
    return pearson(ranks(x), ranks(y))

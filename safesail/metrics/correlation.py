"""Agreement between two columns of numbers, with bootstrap intervals over windows."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int, Real

from safesail.domain.undefined import Undefined

_LEVEL = 0.95


def pearson(true: Real[np.ndarray, " n_units"], simulated: Real[np.ndarray, " n_units"]) -> float | Undefined:
    """Pearson correlation over all units pooled, in [-1, 1]; unchanged by positive linear rescaling.

    Raises:
        ValueError: a value is not finite.
    """
    x, y = _finite(true), _finite(simulated)
    if x.size < 2:
        return Undefined(f"{x.size} units; a correlation needs at least 2")
    for name, side in (("true", x), ("simulated", y)):
        if np.ptp(side) == 0:
            return Undefined(f"{name} values are constant")
    x, y = _standard(x), _standard(y)
    return float(np.clip(np.mean(x * y), -1.0, 1.0))


def auc(labels: Bool[np.ndarray, " n_units"], values: Real[np.ndarray, " n_units"]) -> float | Undefined:
    """Chance that a positive unit has a larger value than a negative one, ties counting one half.

    The Mann-Whitney form of the area under the ROC curve, in [0, 1]; 0.5 says nothing.
    """
    n_pos = int(labels.sum())
    n_neg = labels.size - n_pos
    if n_pos == 0 or n_neg == 0:
        return Undefined(f"no {'positive' if n_pos == 0 else 'negative'} units")
    rank_sum = float(ranks(_finite(values))[labels].sum())
    return (rank_sum - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg)


def balanced_accuracy(
    labels: Bool[np.ndarray, " n_units"], predicted: Bool[np.ndarray, " n_units"]
) -> float | Undefined:
    """Mean of the shares of positive and of negative units that are predicted right, in [0, 1]."""
    n_pos = int(labels.sum())
    n_neg = labels.size - n_pos
    if n_pos == 0 or n_neg == 0:
        return Undefined(f"no {'positive' if n_pos == 0 else 'negative'} units")
    sensitivity = int((labels & predicted).sum()) / n_pos
    specificity = int((~labels & ~predicted).sum()) / n_neg
    return (sensitivity + specificity) / 2


def spearman(x: Real[np.ndarray, " n"], y: Real[np.ndarray, " n"]) -> float | Undefined:
    """Correlation of ranks; ties share their mean rank. Unchanged by any increasing rescaling."""
    return pearson(ranks(x), ranks(y))


def ranks(values: Real[np.ndarray, " n_units"]) -> Float[np.ndarray, " n_units"]:
    """Rank of every value from 1 up; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def bootstrap_interval(
    statistic: Callable[[Real[np.ndarray, " n_items"]], float | Undefined],
    n_items: int,
    draws: int,
    seed: int,
) -> tuple[float, float] | Undefined:
    """95 % percentile interval of a statistic of items (windows, pairs) drawn with replacement.

    Args:
        statistic: Its value for item indices, repeats included.
        n_items: Number of items; 0 or 1 define no interval.
        draws: Resamples; those on which the statistic is undefined are left out.
        seed: Of the draws.
    """
    if n_items < 2:
        return Undefined(f"{n_items} items; an interval needs at least 2")
    rng = np.random.default_rng(seed)
    drawn = (statistic(rng.integers(0, n_items, n_items)) for _ in range(draws))
    return percentile_interval(np.array([d for d in drawn if not isinstance(d, Undefined)], float), draws)


def window_sums(
    windows: Sequence[tuple[Real[np.ndarray, " _"], Real[np.ndarray, " _"]]],
) -> Float[np.ndarray, "n_windows 6"]:
    """What a pooled correlation needs of each (true, simulated) window: n, sums of x, y, xx, yy and xy.

    Both sides are first brought to mean 0 and variance 1 over all windows, which no correlation sees, so
    that the differences of sums lose no digits.
    """
    if not windows:
        return np.zeros((0, 6))
    starts = np.cumsum([0, *(len(x) for x, _ in windows)])
    x = _standard(_finite(np.concatenate([x for x, _ in windows])))
    y = _standard(_finite(np.concatenate([y for _, y in windows])))
    columns = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)
    running = np.concatenate([np.zeros((1, 6)), np.cumsum(columns, axis=0)])
    return running[starts[1:]] - running[starts[:-1]]


def pearson_interval(
    per_window_sums: Float[np.ndarray, "n_windows 6"], draws: int, seed: int
) -> tuple[float, float] | Undefined:
    """95 % bootstrap interval, over windows, of the pooled Pearson correlation; all draws at once.

    Args:
        per_window_sums: As `window_sums` gives them.
        draws: Resamples of the windows; those with a constant side are left out.
        seed: Of the draws.
    """
    if len(per_window_sums) < 2:
        return Undefined(f"{len(per_window_sums)} windows; an interval needs at least 2")
    drawn, defined = _resampled(per_window_sums, draws, seed)
    return percentile_interval(drawn[defined], draws)


def gain_interval(
    sums: Float[np.ndarray, "n_windows 6"], other: Float[np.ndarray, "n_windows 6"], draws: int, seed: int
) -> tuple[float, float] | Undefined:
    """95 % bootstrap interval of how much the first pooled correlation is larger, both on the same resamples.

    Args:
        sums: As `window_sums` gives them.
        other: The same windows with other predictions.
        draws: Resamples of the windows; those on which either is undefined are left out.
        seed: Of the draws.
    """
    if len(sums) < 2:
        return Undefined(f"{len(sums)} windows; an interval needs at least 2")
    (a, a_defined), (b, b_defined) = (_resampled(s, draws, seed) for s in (sums, other))
    return percentile_interval((a - b)[a_defined & b_defined], draws)


def _resampled(
    sums: Float[np.ndarray, "n_windows 6"], draws: int, seed: int
) -> tuple[Float[np.ndarray, " draws"], Bool[np.ndarray, " draws"]]:
    """Correlation on every resample of the windows, and where it is defined (0 stands where it is not)."""
    weights = _resamples(len(sums), draws, seed)
    n, x, y, xx, yy, xy = (weights @ sums).T
    var_x, var_y = xx * n - x * x, yy * n - y * y
    # A constant side leaves rounding noise instead of 0.
    defined = (var_x > 1e-9 * n * n) & (var_y > 1e-9 * n * n)
    drawn = np.divide(xy * n - x * y, np.sqrt(np.where(defined, var_x * var_y, 1.0)))
    return np.where(defined, np.clip(drawn, -1.0, 1.0), 0.0), defined


@lru_cache(maxsize=4)
def _resamples(n: int, draws: int, seed: int) -> Int[np.ndarray, "draws n"]:
    """How often each of `n` windows is in each resample: the same for the figures of one score."""
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), draws)
    weights.flags.writeable = False
    return weights


def percentile_interval(
    drawn: Float[np.ndarray, " n_defined"], draws: int
) -> tuple[float, float] | Undefined:
    """Central 95 % of the draws that were defined; Undefined where fewer than half of all `draws` were."""
    if draws < 1 or 2 * drawn.size < draws:
        return Undefined(f"only {drawn.size} of {draws} resamples define the figure")
    low, high = np.quantile(drawn, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)


def share_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % interval of a share, Wilson's (1927): it holds 0 and 1 off their ends, however few the trials.

    Raises:
        ValueError: no trial.
    """
    if trials < 1:
        raise ValueError("a share needs at least 1 trial")
    z = 1.959964
    share, spread = successes / trials, z * z / trials
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * float(np.sqrt(share * (1 - share) / trials + spread / (4 * trials)))
    return max(0.0, centre - half), min(1.0, centre + half)


def _finite(values: Real[np.ndarray, " n_units"]) -> Float[np.ndarray, " n_units"]:
    if not np.isfinite(values).all():
        raise ValueError("values must be finite; leave undefined units out")
    return values.astype(np.float64)


def _standard(values: Float[np.ndarray, " n_units"]) -> Float[np.ndarray, " n_units"]:
    """Mean 0, variance 1; a constant column becomes 0."""
    # Scaled by the largest deviation first: squares of tiny or huge values would leave the float range.
    centred = values - values.mean() if values.size else values
    largest = np.abs(centred).max(initial=0.0)
    if largest == 0 or np.ptp(values) == 0:
        return np.zeros_like(values)
    centred = centred / largest
    return centred / np.sqrt(np.mean(centred**2))

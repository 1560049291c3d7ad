"""How well features tell a text that has a concept from its twin that leaves only the concept out.

For pairs i = 1..n of one concept and feature j, d_ij = 1 where j fires on q+ and not on q-:

    f_j       = mean_i d_ij           distinguishing frequency, in [0, 1]
    L_{0,t}   = #{ j : f_j >= t }     features that distinguish the concept at threshold t
    I_CDF     = mean_j f_j            = (1 / d_sae) * integral over t in (0, 1] of L_{0,t}

The names are Safe-SAIL's (arXiv 2509.18127); the formulas are our reconstruction. A denser SAE differs more
on ANY two texts, so every figure stands beside its null: its expectation when each pair's sides are drawn at
random. Beside them stands a figure of ours:

    pair_isolation = the net frequency, mean_i (d_ij - [j fires on q- and not on q+]), of the feature j that is
                     best on the other pairs: chosen on 7/8 of the pairs, measured on the rest. Its null is 0.

All that is needed are the features that fire on exactly one side of a pair, which is sparse.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from safesail.domain.undefined import Undefined

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""The t of L_{0,t}."""

MEASURES = ("i_cdf", *(f"l0_t{t}" for t in THRESHOLDS), "pair_isolation")
"""Names of the figures, in the order of every array with an axis `n_measures`."""

FOLDS, REPEATS = 8, 16
"""Parts that pairs are cut into for `pair_isolation`, and random cuts that are averaged: of 2, each leaves a concept's
figure a standard deviation of .03."""

_CELLS = 2_000_000
"""Numbers held at once while resampling: keeps memory flat in pairs, features and draws."""


@dataclass(frozen=True)
class OneSided:
    """The features that fire on exactly one side of each pair of a concept."""

    n_pairs: int
    d_sae: int
    pair: Int[np.ndarray, " n_events"]
    """Which pair, 0 <= pair < n_pairs."""

    feature: Int[np.ndarray, " n_events"]
    on_pos: Bool[np.ndarray, " n_events"]
    """True: fires on q+ only; False: on q- only."""


@dataclass(frozen=True)
class Contrast:
    """All contrast figures of one concept and one SAE."""

    frequency: Float[np.ndarray, " d_sae"]
    """f_j: share of pairs in which feature j fires on q+ only."""

    swapped: Float[np.ndarray, " d_sae"]
    """Share of pairs in which it fires on q- only: f_j with all sides swapped."""

    value: Float[np.ndarray, " n_measures"]
    """By `MEASURES`."""

    null: Float[np.ndarray, " n_measures"]
    """Exact expectation of `value` when each pair's sides are drawn at random."""

    value_draws: Float[np.ndarray, "draws n_measures"]
    """`value` on pairs drawn with replacement."""

    above_draws: Float[np.ndarray, "draws n_measures"]
    """`value - null` on the same resamples."""

    held_out: Float[np.ndarray, " n_pairs"]
    """Each pair's share of `pair_isolation`, in [-1, 1]: its net firing of the feature chosen on other pairs."""


def one_sided(
    pos_fires: Bool[np.ndarray, "n_pairs d_sae"], neg_fires: Bool[np.ndarray, "n_pairs d_sae"]
) -> OneSided:
    """Reduce which features fire on q+ and on q- of each pair to what a contrast needs."""
    pair, feature = np.nonzero(pos_fires != neg_fires)
    return OneSided(pos_fires.shape[0], pos_fires.shape[1], pair, feature, pos_fires[pair, feature])


def join(parts: Sequence[OneSided]) -> OneSided:
    """The pairs of several batches as one; batches keep their order."""
    starts = np.cumsum([0, *(part.n_pairs for part in parts)])
    return OneSided(
        int(starts[-1]),
        parts[0].d_sae,
        np.concatenate([part.pair + start for part, start in zip(parts, starts, strict=False)]),
        np.concatenate([part.feature for part in parts]),
        np.concatenate([part.on_pos for part in parts]),
    )


def contrast(sides: OneSided, *, draws: int, rng: np.random.Generator) -> Contrast | Undefined:
    """Every figure of one concept, with its null and its bootstrap over pairs.

    Args:
        sides: The concept's pairs.
        draws: Resamples of the pairs.
        rng: Source of the resamples.
    """
    n = sides.n_pairs
    if n < 2:
        return Undefined(f"{n} pairs; a contrast needs at least 2")
    weights = rng.multinomial(n, np.full(n, 1 / n), draws)
    plain, either = _histograms(sides, np.ones((1, n), np.int64))
    drawn, drawn_either = _histograms(sides, weights)
    held_out = _held_out(sides, rng)
    isolation_draws = (weights @ held_out / n)[:, None]
    value_draws = _figures(drawn, sides.d_sae)
    above_draws = value_draws - _expected(drawn_either, sides.d_sae)
    return Contrast(
        frequency=_counts(sides, on_pos=True) / n,
        swapped=_counts(sides, on_pos=False) / n,
        value=np.append(_figures(plain, sides.d_sae)[0], held_out.mean()),
        null=np.append(_expected(either, sides.d_sae)[0], 0.0),
        value_draws=np.hstack([value_draws, isolation_draws]),
        above_draws=np.hstack([above_draws, isolation_draws]),
        held_out=held_out,
    )


def null_draws(sides: OneSided, *, draws: int, rng: np.random.Generator) -> Float[np.ndarray, " draws"]:
    """I_CDF with each pair's sides drawn at random, `draws` times; its mean tends to the exact null."""
    n, size = sides.n_pairs, sides.n_pairs * sides.d_sae
    on_pos, on_neg = (np.bincount(sides.pair[sides.on_pos == side], minlength=n) for side in (True, False))
    kept = rng.integers(0, 2, (draws, n))
    return (kept @ on_pos + (1 - kept) @ on_neg) / size


def p_value(value: float, null: Float[np.ndarray, " draws"]) -> float:
    """One-sided: chance, under the null, of a figure as large as `value`; at least 1 / (draws + 1)."""
    return float((1 + np.count_nonzero(null >= value - 1e-12)) / (1 + null.size))


def _held_out(sides: OneSided, rng: np.random.Generator) -> Float[np.ndarray, " n_pairs"]:
    n, folds = sides.n_pairs, min(FOLDS, sides.n_pairs)
    active, column = np.unique(sides.feature, return_inverse=True)
    sign = np.where(sides.on_pos, 1.0, -1.0)
    total = np.bincount(column, sign, active.size)
    silent = sides.d_sae - active.size  # their net frequency is 0
    net = np.zeros(n)
    for _ in range(REPEATS):
        fold = rng.permutation(n) % folds
        cell = fold[sides.pair] * active.size + column
        others = total - np.bincount(cell, sign, folds * active.size).reshape(folds, active.size)
        highest = others.max(axis=1, initial=0.0 if silent else -np.inf)
        best = others == highest[:, None]
        n_best = best.sum(axis=1) + np.where(highest == 0, silent, 0)  # ties share
        chosen = best.ravel()[cell]
        net += np.bincount(sides.pair[chosen], sign[chosen] / n_best[fold[sides.pair[chosen]]], n)
    return net / REPEATS


def _counts(sides: OneSided, *, on_pos: bool) -> Float[np.ndarray, " d_sae"]:
    return np.bincount(sides.feature[sides.on_pos == on_pos], minlength=sides.d_sae).astype(float)


def _histograms(
    sides: OneSided, weights: Int[np.ndarray, "draws n_pairs"]
) -> tuple[Int[np.ndarray, "draws n_counts"], Int[np.ndarray, "draws n_counts"]]:
    """How many features have each weighted count 0..n of pairs, per draw.

    First counting the pairs in which a feature fires on q+ only, then those in which it fires on either side
    only. Rows of `weights` add up to n.
    """
    draws, n = weights.shape
    active, column = np.unique(sides.feature, return_inverse=True)
    order = np.argsort(column, kind="stable")
    step = max(1, _CELLS // (draws + 2 * n))
    starts = np.arange(0, active.size, step)
    bounds = np.searchsorted(column[order], np.append(starts, active.size))
    on_pos, on_either = np.zeros((2, draws, n + 1), np.int64)
    exact = weights.astype(np.float32)  # whole numbers, well below 2^24
    for start, low, high in zip(starts, bounds[:-1], bounds[1:], strict=True):
        events = order[low:high]
        fires = np.zeros((2, n, min(step, active.size - start)), np.float32)
        fires[sides.on_pos[events].astype(int), sides.pair[events], column[events] - start] = 1
        of_pos = exact @ fires[1]
        on_pos += _count_rows(of_pos, n)
        on_either += _count_rows(of_pos + exact @ fires[0], n)
    for total in (on_pos, on_either):
        total[:, 0] += sides.d_sae - active.size
    return on_pos, on_either


def _count_rows(counts: Float[np.ndarray, "draws width"], highest: int) -> Int[np.ndarray, "draws n_counts"]:
    """How often each of 0..highest stands in each row."""
    draws = counts.shape[0]
    cell = counts.astype(np.int64)
    cell += np.arange(draws)[:, None] * (highest + 1)
    return np.bincount(cell.ravel(), minlength=draws * (highest + 1)).reshape(draws, highest + 1)


def _figures(
    histograms: Int[np.ndarray, "draws n_counts"], d_sae: int
) -> Float[np.ndarray, "draws n_figures"]:
    """I_CDF and every L_{0,t} from counts of features by the number of pairs they distinguish."""
    n = histograms.shape[1] - 1
    i_cdf = histograms @ np.arange(n + 1) / (n * d_sae)
    reached = np.cumsum(histograms[:, ::-1], axis=1)[:, ::-1]
    return np.column_stack([i_cdf, *(reached[:, _needed(t, n)] for t in THRESHOLDS)]).astype(float)


def _expected(
    histograms: Int[np.ndarray, "draws n_counts"], d_sae: int
) -> Float[np.ndarray, "draws n_figures"]:
    """Expectation of `_figures` with sides at random, from counts of pairs that differ on EITHER side.

    A feature with m one-sided pairs then distinguishes Binomial(m, 1/2) of them, and expectations add up
    over features however dependent they are.
    """
    n = histograms.shape[1] - 1
    i_cdf = histograms @ np.arange(n + 1) / (2 * n * d_sae)
    return np.column_stack([i_cdf, *(histograms @ _tail(n, _needed(t, n)) for t in THRESHOLDS)])


def _needed(threshold: float, n_pairs: int) -> int:
    """Pairs that make f_j >= threshold; 0.3 * 10 is not to be 3.0000000000000004."""
    return math.ceil(threshold * n_pairs - 1e-9)


def _tail(n: int, needed: int) -> Float[np.ndarray, " n_counts"]:
    """P(Binomial(m, 1/2) >= needed) for m = 0..n.

    One more trial lifts it by half the chance that exactly needed - 1 were reached before.
    """
    exactly = [
        math.exp(math.lgamma(m + 1) - math.lgamma(needed) - math.lgamma(m - needed + 2) - m * math.log(2))
        if m >= needed - 1
        else 0.0
        for m in range(n)
    ]
    return np.concatenate([[0.0], np.cumsum(exactly) / 2])

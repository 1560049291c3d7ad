"""Do two sets of texts differ in a feature? Permutations of the texts, and false discoveries over features."""

from itertools import combinations
from math import ceil, comb

import numpy as np
from jaxtyping import Bool, Float

from safesail.domain.undefined import Undefined

LEAST_DRAWS, MOST_DRAWS = 2_000, 100_000

_CELLS = 4_000_000
"""Numbers held at once."""

_EQUAL = 1e-6
"""Differences that rounding alone makes, as a share of the largest."""


def permutation_p(
    values: Float[np.ndarray, "n_texts n_features"],
    in_first: Bool[np.ndarray, " n_texts"],
    *,
    level: float,
    draws: int | None = None,
    seed: int = 0,
) -> Float[np.ndarray, " n_features"] | Undefined:
    """Two-sided p of each feature's difference of means, its null that texts change sides.

    Exact where all ways to choose the first set are fewer than the draws; else the share of draws, the observed one
    among them, that differ as much.

    Args:
        values: One per text and feature.
        in_first: Which texts are in the first set.
        level: The false discovery rate that is to be within reach.
        draws: None: as many as let one feature among all reach `level`, from 2,000 to 100,000.
        seed: Of the draws.

    Returns:
        Undefined where even the largest difference could not reach `level`: too few texts.
    """
    n, n_first = len(in_first), int(in_first.sum())
    ways = comb(n, n_first)
    if ways < 2 / level:
        return Undefined(
            f"{n_first} and {n - n_first} prompts can be dealt in {ways} ways only, so that no p is below "
            f"{1 / ways:.2g}; give more prompts"
        )
    n_features = values.shape[1]
    draws = draws or min(MOST_DRAWS, max(LEAST_DRAWS, ceil(n_features / level)))
    weights = _weights(in_first)
    observed = np.abs(weights @ values)
    bar = observed - _EQUAL * max(1e-30, float(observed.max(initial=0.0)))
    exact = ways <= draws
    dealt = _all_ways(n, n_first) if exact else _draws(in_first, draws, seed)
    at_least = np.zeros(n_features)
    size = max(1, _CELLS // max(n_features, n))
    for start in range(0, len(dealt), size):
        differences = _weights(dealt[start : start + size]) @ values
        at_least += (np.abs(differences) >= bar).sum(axis=0)
    return at_least / ways if exact else (1 + at_least) / (1 + draws)


def _weights(in_first: Bool[np.ndarray, "*draws n_texts"]) -> Float[np.ndarray, "*draws n_texts"]:
    """What makes a difference of means of values."""
    n_first = in_first.sum(axis=-1, keepdims=True)
    return np.where(in_first, 1 / n_first, -1 / (in_first.shape[-1] - n_first)).astype(np.float32)


def _all_ways(n: int, n_first: int) -> Bool[np.ndarray, "n_ways n_texts"]:
    dealt = np.zeros((comb(n, n_first), n), bool)
    for row, chosen in zip(dealt, combinations(range(n), n_first), strict=True):
        row[list(chosen)] = True
    return dealt


def _draws(
    in_first: Bool[np.ndarray, " n_texts"], draws: int, seed: int
) -> Bool[np.ndarray, "draws n_texts"]:
    return np.random.default_rng(seed).permuted(np.tile(in_first, (draws, 1)), axis=1)


def jaccard(
    first: Bool[np.ndarray, "n_texts n_features"], second: Bool[np.ndarray, "n_texts n_features"]
) -> Float[np.ndarray, "n_texts n_texts"]:
    """Of every text of one set and every text of the other: features active in both / in either; NaN where in none."""
    both = first.astype(np.float32) @ second.astype(np.float32).T
    either = first.sum(axis=1)[:, None] + second.sum(axis=1)[None] - both
    with np.errstate(invalid="ignore"):
        return (both / either).astype(np.float64)

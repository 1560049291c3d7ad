"""Is what a feature does more than what any push of the same size does? Ranks against nulls, and false discoveries.

A feature's effect stands beside nulls: the same change along the directions of other features. Nulls of one feature
are too few for small p-values, so each effect is put on the scale of its own group (the effect and its nulls),

    z_i = (e_i - median of the others) / (MAD of the others),

and p is the rank of the feature's z among the z of ALL nulls of its family. Where a feature's direction is no other
than those of its nulls, its z is one more draw of theirs.
"""

import numpy as np
from jaxtyping import Float

from safesail.domain.records import Verdict

_FLOOR = 0.1
"""Smallest scale of a group, as a share of the family's median scale: a group whose nulls agree by chance would make
any effect look large."""


def standardised(
    effects: Float[np.ndarray, "n_features n_members"],
) -> Float[np.ndarray, "n_features n_members"]:
    """Every member's distance from the others of its group, in their median absolute deviations.

    Args:
        effects: A row per feature: its own effect first, then those of its nulls.
    """
    n = effects.shape[1]
    others = np.stack([np.delete(effects, i, axis=1) for i in range(n)], axis=1)  # [feature, member, other]
    middle = np.median(others, axis=2)
    scale = np.median(np.abs(others - middle[..., None]), axis=2)
    floor = max(_FLOOR * float(np.median(scale)), np.finfo(float).tiny)
    return (effects - middle) / np.maximum(scale, floor)


def rank_p_values(effects: Float[np.ndarray, "n_features n_members"]) -> Float[np.ndarray, " n_features"]:
    """One-sided: how often a null of the family stands as far above its group as the feature does; never 0.

    Args:
        effects: As `standardised`; larger is more.
    """
    z = standardised(effects)
    nulls = np.sort(z[:, 1:], axis=None)
    at_least = nulls.size - np.searchsorted(nulls, z[:, 0] - 1e-12, side="left")
    return (1 + at_least) / (1 + nulls.size)


def benjamini_hochberg(p: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The smallest false discovery rate at which each is a discovery: its q (Benjamini and Hochberg 1995)."""
    order = np.argsort(p)
    scaled = p[order] * p.size / np.arange(1, p.size + 1)
    q = np.empty_like(p)
    q[order] = np.minimum.accumulate(scaled[::-1])[::-1].clip(max=1)
    return q


def median_interval(values: Float[np.ndarray, " n_texts"], *, draws: int, seed: int) -> tuple[float, float]:
    """95 % bootstrap interval of the median over texts."""
    drawn = np.random.default_rng(seed).choice(values, (draws, values.size))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return float(low), float(high)


def verdict(q: float, low: float, high: float, level: float) -> Verdict:
    """Whether a feature does more than its nulls.

    Args:
        q: Of its effect.
        low: Lower end of the interval of the effect minus its null, in the direction expected.
        high: Upper end.
        level: Largest q that counts as shown.
    """
    if high < 0:
        return "no"
    return "yes" if q <= level and low > 0 else "not shown"

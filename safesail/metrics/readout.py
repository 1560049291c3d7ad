"""A few features that together detect a concept, chosen from its pairs, and how well they do on pairs held out.

A text's activation of feature j is a_j, the largest over its tokens. For a concept with texts q+_i and twins q-_i:

    pairs_j   = AUC of a_j, q+ against q-
    wide_j    = AUC of a_j, q+ against texts of OTHER domains
    readout   = the features with the largest (pairs_j + wide_j) / 2, at most so many, and only those that are at least
                half as far above chance, 1/2, as the best one
    score(q)  = mean over them of a_j / scale_j
    detection = AUC of the score, q+ against further texts of other domains: chosen on 3/4 of the pairs, measured on
                the rest

Ties count one half. The null of `detection` is its mean when each pair's sides are drawn at random, the mean of the
AUCs of q+ and q-: a feature that fires on a domain's wording lifts both, one that fires on the concept lifts q+ alone.

Everything works on the activations above zero, which are few. The readout and both figures are ours.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from numpy.typing import NDArray

FOLDS, REPEATS = 4, 2
"""Parts that pairs are cut into for `detection`, and random cuts that are averaged."""

WORTH = 0.5
"""A further feature must be this share as far above chance as the best one: fewer where fewer are good."""

_CELLS = 4_000_000
"""Comparisons held at once."""


@dataclass(frozen=True)
class Maxima:
    """Largest activations of features on some texts; only those above zero."""

    n_texts: int
    d_sae: int
    text: Int[np.ndarray, " nnz"]
    """0 <= text < n_texts, ascending."""

    feature: Int[np.ndarray, " nnz"]
    value: Float32[np.ndarray, " nnz"]

    def columns(self, features: Int[np.ndarray, " n_features"]) -> Float32[np.ndarray, "n_texts n_features"]:
        """Dense activations of some features, ascending."""
        dense = np.zeros((self.n_texts, features.size), np.float32)
        column = np.searchsorted(features, self.feature)
        held = column < features.size
        held[held] = features[column[held]] == self.feature[held]
        dense[self.text[held], column[held]] = self.value[held]
        return dense


@dataclass(frozen=True)
class Negatives:
    """Texts that have not the concept, by feature, each feature's activations ascending."""

    n_texts: int
    starts: Int[np.ndarray, " d_sae_plus_one"]
    """Where each feature's activations begin."""

    key: NDArray[np.uint64]
    """Feature in the upper 32 bits, its activation's bits in the lower: of positive floats they keep the order."""

    text: Int[np.ndarray, " nnz"]

    @classmethod
    def of(cls, maxima: Maxima) -> "Negatives":
        """All texts."""
        key = _key(maxima.feature, maxima.value)
        order = np.argsort(key, kind="stable")
        return cls._sorted(maxima.n_texts, maxima.d_sae, key[order], maxima.text[order])

    @classmethod
    def _sorted(
        cls, n_texts: int, d_sae: int, key: NDArray[np.uint64], text: NDArray[np.int64]
    ) -> "Negatives":
        starts = np.searchsorted(key, np.arange(d_sae + 1, dtype=np.uint64) << np.uint64(32))
        return cls(n_texts, starts, key, text)

    def only(self, kept: Bool[np.ndarray, " n_texts"]) -> "Negatives":
        """Those texts, numbered anew."""
        held = kept[self.text]
        number = np.cumsum(kept) - 1
        return self._sorted(int(kept.sum()), self.starts.size - 1, self.key[held], number[self.text[held]])

    @cached_property
    def silent(self) -> Float[np.ndarray, " d_sae"]:
        """Share of texts on which each feature is silent."""
        return 1 - np.diff(self.starts) / self.n_texts

    def beaten(self, maxima: Maxima) -> Float[np.ndarray, " nnz"]:
        """By each activation of `maxima`: the share of these texts on which its feature is weaker; ties count half."""
        key = _key(maxima.feature, maxima.value)
        order = np.argsort(key)  # looked up in order, neighbours are near
        both = np.zeros(key.size, np.int64)
        for side in ("left", "right"):
            both[order] += np.searchsorted(self.key, key[order], side=side)
        return self.silent[maxima.feature] + (both - 2 * self.starts[maxima.feature]) / (2 * self.n_texts)

    def column(self, feature: int) -> Float32[np.ndarray, " n_texts"]:
        """Dense activations of one feature."""
        start, end = self.starts[feature], self.starts[feature + 1]
        dense = np.zeros(self.n_texts, np.float32)
        dense[self.text[start:end]] = (
            (self.key[start:end] & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.float32)
        )
        return dense


def _key(feature: NDArray[np.integer], value: NDArray[np.float32]) -> NDArray[np.uint64]:
    return (feature.astype(np.uint64) << np.uint64(32)) | value.astype(np.float32).view(np.uint32)


@dataclass(frozen=True)
class Wide:
    """Texts of other domains: those that help to choose, and those that a choice is measured on."""

    choosing: Negatives
    measuring: Negatives


@dataclass(frozen=True)
class Readout:
    """How every feature that fires on a concept's q+ grades its texts, and which of them were chosen."""

    feature: Int[np.ndarray, " n_features"]
    """Ascending."""

    auc_pairs: Float[np.ndarray, " n_features"]
    auc_wide: Float[np.ndarray, " n_features"] | None
    """None: there is no text of another domain, and the pairs alone chose."""

    chosen: Int[np.ndarray, " n_chosen"]
    """Positions in `feature`, best first; empty where none is above chance."""

    @classmethod
    def nothing(cls) -> "Readout":
        """Of a concept with too few pairs."""
        none = np.zeros(0)
        return cls(none.astype(np.int32), none, None, none.astype(np.int64))


@dataclass(frozen=True)
class Detection:
    """How readouts chosen on other pairs detect each pair's texts: shares of negatives that score lower."""

    pos: Float[np.ndarray, " n_pairs"]
    neg: Float[np.ndarray, " n_pairs"]

    @property
    def null(self) -> Float[np.ndarray, " n_pairs"]:
        """Each pair's expectation when its sides are drawn at random."""
        return (self.pos + self.neg) / 2


def read_concept(
    pos: Maxima,
    neg: Maxima,
    wide: Wide | None,
    scale: Float[np.ndarray, " d_sae"],
    *,
    limit: int,
    rng: np.random.Generator,
) -> tuple[Readout, Detection | None]:
    """Choose a concept's readout from its pairs, and measure on held-out pairs what such a choice detects.

    Args:
        pos: The texts with the concept, at least two.
        neg: Their twins, in the same order.
        wide: Texts of other domains; None: there are none, and nothing can be measured.
        scale: What each feature is divided by before features are averaged, > 0.
        limit: At most so many features.
        rng: Source of the folds.
    """
    features = np.unique(pos.feature)
    sides = pos.columns(features), neg.columns(features)
    held_out = _held_out(pos.n_texts, rng)
    train = np.vstack([np.ones((1, pos.n_texts), bool), ~held_out])
    pairs = _pair_auc(*sides, train)
    against = None if wide is None else _wide_auc(pos, wide.choosing, features, train)
    chosen = [
        _choose(own if against is None else (own + against[i]) / 2, limit) for i, own in enumerate(pairs)
    ]
    readout = Readout(features, pairs[0], None if against is None else against[0], chosen[0])
    if wide is None:
        return readout, None
    scaled = [side / scale[features].astype(np.float32) for side in sides]
    detected = np.zeros((2, pos.n_texts))
    for held, columns in zip(held_out, chosen[1:], strict=True):
        negatives = np.sort(_scores(wide.measuring, features[columns], scale))
        for side, total in zip(scaled, detected, strict=True):
            total[held] += _below(side[np.ix_(held, columns)], negatives)
    return readout, Detection(*(detected / REPEATS))


def _held_out(n_pairs: int, rng: np.random.Generator) -> Bool[np.ndarray, "n_folds n_pairs"]:
    """Which pairs are held out in each fold of each random cut."""
    folds = min(FOLDS, n_pairs)
    cuts = [rng.permutation(n_pairs) % folds for _ in range(REPEATS)]
    return np.concatenate([cut == np.arange(folds)[:, None] for cut in cuts])


def _pair_auc(
    pos: Float32[np.ndarray, "n_pairs n_features"],
    neg: Float32[np.ndarray, "n_pairs n_features"],
    train: Bool[np.ndarray, "n_subsets n_pairs"],
) -> Float[np.ndarray, "n_subsets n_features"]:
    """AUC of each feature, q+ against q-, on each subset of the pairs."""
    n, n_features = pos.shape
    counts = train.astype(np.float32)  # sums of halves below 2^23: exact
    wins_by_subset = np.zeros((len(train), n_features))
    step = max(1, _CELLS // (n * n))
    for start in range(0, n_features, step):
        a, b = pos[:, None, start : start + step], neg[None, :, start : start + step]
        wins = (a > b).astype(np.float32)
        wins += np.float32(0.5) * (a == b)
        by_neg = (counts @ wins.reshape(n, -1)).reshape(len(train), n, -1)
        wins_by_subset[:, start : start + step] = np.einsum("sk,ska->sa", counts, by_neg)
    return wins_by_subset / train.sum(axis=1, keepdims=True) ** 2


def _wide_auc(
    pos: Maxima,
    negatives: Negatives,
    features: Int[np.ndarray, " n_features"],
    train: Bool[np.ndarray, "n_subsets n_pairs"],
) -> Float[np.ndarray, "n_subsets n_features"]:
    """AUC of each feature, q+ of each subset against `negatives`."""
    # A silent text ties with the silent negatives, and loses to the others.
    wins = np.repeat(negatives.silent[None, features] / 2, pos.n_texts, axis=0)
    wins[pos.text, np.searchsorted(features, pos.feature)] = negatives.beaten(pos)
    return (train / train.sum(axis=1, keepdims=True)) @ wins


def _choose(separation: Float[np.ndarray, " n_features"], limit: int) -> Int[np.ndarray, " n_chosen"]:
    """The features that separate best, ties in the order of their numbers, as far as they are worth their place."""
    # Rounded: what ties by definition is not to fall apart in the last digits.
    above = np.round(separation - 0.5, 6)
    order = np.argsort(-above, kind="stable")[:limit]
    return order[(above[order] > 0) & (above[order] >= WORTH * above.max(initial=0))]


def _scores(
    negatives: Negatives, features: Int[np.ndarray, " n_chosen"], scale: Float[np.ndarray, " d_sae"]
) -> Float32[np.ndarray, " n_texts"]:
    scores = np.zeros(negatives.n_texts, np.float32)
    for feature in features.tolist():
        scores += negatives.column(feature) / np.float32(scale[feature])
    return scores


def _below(
    scaled: Float32[np.ndarray, "n_held n_chosen"], negatives: Float32[np.ndarray, " n_texts"]
) -> Float[np.ndarray, " n_held"]:
    """Share of negatives, ascending, that score lower than each text; ties count half."""
    # The sum in the order of the features, as for the negatives: equal activations give equal scores.
    scores = np.zeros(len(scaled), np.float32)
    for column in scaled.T:
        scores += column
    low, high = (np.searchsorted(negatives, scores, side=side) for side in ("left", "right"))
    return (low + high) / (2 * negatives.size)

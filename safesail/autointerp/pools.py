"""Several features in one prompt: who shares it, which windows it shows, and what a round of it says. Pure."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from safesail.autointerp.config import PoolConfig, ScoringConfig
from safesail.autointerp.score import correlation
from safesail.autointerp.units import Simulated, Simulation, Units, segment_units
from safesail.domain.ids import FeatureId
from safesail.domain.pieces import has_pieces, join_pieces
from safesail.domain.undefined import Undefined
from safesail.errors import BadAnswerError
from safesail.prompting.marking import crop
from safesail.store.pools import SharedWindow

T = TypeVar("T")


@dataclass(frozen=True)
class Supply:
    """Windows of one feature in the order in which it contributes them."""

    active: Sequence[int]
    silent: Sequence[int]

    def turn(self, number: int, config: PoolConfig) -> tuple[Sequence[int], Sequence[int]]:
        """What it contributes the `number`-th time, active and silent ones; no window comes twice."""
        n, m = config.n_active, config.n_silent
        return self.active[number * n : (number + 1) * n], self.silent[number * m : (number + 1) * m]


@dataclass(frozen=True)
class PoolWindow:
    """A part of a window, with every member's activations on it."""

    owner: FeatureId
    """The feature that contributed it."""

    position: tuple[str, int]
    """Document, and index of the part's first token in it: the same part has the same position."""

    tokens: tuple[str, ...]
    activations: Mapping[FeatureId, tuple[float, ...]]
    """One per token; members whose activations are not known on it are left out."""


def draw_groups(
    features: Sequence[FeatureId], apart: Mapping[FeatureId, Collection[FeatureId]], size: int, key: str
) -> list[list[FeatureId]]:
    """Features in groups of about equal size, drawn by `key`; none is with one that it is to be kept apart from.

    Each goes to the smallest group that has nobody whom it must avoid; where there is none, it opens another one.
    The result depends on the set of features, not on their order.

    Args:
        features: Each once.
        apart: For each feature those that it must not be with.
        size: Of a group, at most.
        key: Another one draws other groups.
    """
    groups: list[list[FeatureId]] = [[] for _ in range(-(-len(features) // size))]
    # Those that must avoid most are placed first, while there is room everywhere.
    ordered = sorted(features, key=lambda f: (-len(set(apart.get(f, ())) & set(features)), _rank(key, f)))
    for feature in ordered:
        avoided = apart.get(feature, ())
        fitting = [g for g in groups if len(g) < size and not any(f in avoided for f in g)]
        if fitting:
            min(fitting, key=len).append(feature)
        else:
            groups.append([feature])
    return [sorted(group, key=lambda f: _rank(key, f)) for group in groups if group]


def cut_active(
    owner: FeatureId, shared: SharedWindow, members: Sequence[FeatureId], config: PoolConfig
) -> PoolWindow:
    """The part of a window round the strongest token of its owner."""
    of_owner = shared.activations[owner.index]
    assert of_owner is not None, "a window of a feature that is not known there"
    joined = join_pieces(shared.window.tokens, of_owner)[1]
    return _cut(owner, shared, members, crop(joined, config.tokens_before, config.tokens_after))


def cut_silent(
    owner: FeatureId,
    shared: SharedWindow,
    members: Sequence[FeatureId],
    config: PoolConfig,
    *,
    hard_tokens: Collection[str],
) -> PoolWindow:
    """A part of a window in which its owner does not fire: round a token on which it often does, or else drawn."""
    tokens = join_pieces(shared.window.tokens, [0.0] * len(shared.window.tokens))[0]
    hard = [float(token in hard_tokens) for token in tokens]
    if not any(hard):
        drawn = _rng("cut", owner, shared.window.document_id, shared.window.start).integers(len(tokens))
        hard[int(drawn)] = 1.0
    return _cut(owner, shared, members, crop(hard, config.tokens_before, config.tokens_after))


def _cut(
    owner: FeatureId, shared: SharedWindow, members: Sequence[FeatureId], part: tuple[int, int]
) -> PoolWindow:
    start, stop = part
    window = shared.window
    whole = not has_pieces(window.tokens)
    known = {m: of for m in members if (of := shared.activations[m.index]) is not None}
    joined = known if whole else {m: join_pieces(window.tokens, of)[1] for m, of in known.items()}
    tokens = window.tokens if whole else join_pieces(window.tokens, [0.0] * len(window.tokens))[0]
    return PoolWindow(
        owner,
        (window.document_id, window.start + start),
        tokens[start:stop],
        {member: of[start:stop] for member, of in joined.items()},
    )


def shuffled(items: Sequence[T], *key: object) -> list[T]:
    """Items in an order drawn by `key`."""
    return [items[i] for i in _rng(*key).permutation(len(items)).tolist()]


@dataclass(frozen=True)
class Round:
    """What one answer says of one group."""

    windows: Sequence[PoolWindow]
    ratings: Mapping[FeatureId, Sequence[tuple[float, ...]]]
    """By member and window: one per segment."""


@dataclass
class Gathered:
    """All that was said of one feature's explanation, round by round."""

    turns: int = 0
    """Prompts that it was part of, lost ones included."""

    tokens: float = 0.0
    """Its share of what they were billed."""

    failures: list[BadAnswerError] = field(default_factory=list[BadAnswerError])
    n_failed: int = 0
    """Windows of lost rounds."""

    said: dict[tuple[str, int], tuple[Units, list[tuple[float, ...]]]] = field(
        default_factory=dict[tuple[str, int], tuple[Units, list[tuple[float, ...]]]]
    )
    """By position: a window that came twice, with different neighbours, counts once, by its mean rating."""

    by_others: list[Simulated] = field(default_factory=list[Simulated])
    """What other explanations say of the windows that are not their own features': the chance line."""

    def add(
        self, feature: FeatureId, answer: Round, config: ScoringConfig, twins: Collection[FeatureId]
    ) -> None:
        """Take what a round says.

        Args:
            feature: Whose score it is.
            answer: The round.
            config: How windows are cut into segments.
            twins: Features with the same explanation, which gives no chance line.
        """
        for number, window in enumerate(answer.windows):
            if feature not in window.activations:
                continue
            units = segment_units(window.tokens, window.activations[feature], config)
            self.said.setdefault(window.position, (units, []))[1].append(answer.ratings[feature][number])
            self.by_others += [
                Simulated(units, ratings[number])
                for other, ratings in answer.ratings.items()
                if other not in (feature, window.owner) and other not in twins
            ]

    @property
    def simulation(self) -> Simulation:
        """As of a feature that was asked about alone; the order in which answers came leaves no trace."""
        windows = tuple(
            Simulated(
                units,
                predicted[0] if len(predicted) == 1 else tuple(np.mean(sorted(predicted), axis=0).tolist()),
            )
            for _, (units, predicted) in sorted(self.said.items(), key=lambda item: item[0])
        )
        return Simulation(windows, tuple(self.failures), self.n_failed, round(self.tokens))

    @property
    def chance(self) -> float | None:
        """Correlation of the others' ratings with the truth, over all of them; None where it is undefined."""
        figure = correlation(sorted(self.by_others, key=lambda w: (w.units.texts, w.predicted)))
        return None if isinstance(figure, Undefined) else figure


def _rank(key: str, feature: FeatureId) -> bytes:
    return hashlib.blake2b(f"{key}/{feature}".encode(), digest_size=8).digest()


def _rng(*key: object) -> np.random.Generator:
    """Random numbers by what they are for, not by the order in which they are drawn."""
    text = "/".join(map(str, key))
    return np.random.default_rng(
        int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    )

"""Exemplars and controls of one feature: which windows an explainer is shown, and which a score is computed on."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from safesail.autointerp.config import ExemplarConfig
from safesail.domain.ids import FeatureId
from safesail.domain.pieces import join_pieces
from safesail.domain.records import Exemplar, Kind, Split, Window
from safesail.metrics.quantiles import levels
from safesail.store.connection import Db
from safesail.store.exemplars import (
    HarvestedFeature,
    active_windows,
    fetch_windows,
    find_feature,
    silent_windows,
)

PEAK_TOKENS = 3
"""Tokens on either side of the strongest one that must differ for two windows to count as different."""


def collect(db: Db, feature: FeatureId, split: Split, config: ExemplarConfig) -> list[Exemplar]:
    """Windows of one split: active ones over all levels, strongest level first, then controls.

    The same texts, feature and seed give the same windows, in whatever order the texts came; fewer where
    the text has fewer.

    Raises:
        NotFoundError: the store holds no finished harvest of the feature.
    """
    harvested = find_feature(db, feature)
    active = active_windows(db, harvested, split)
    level = (
        levels(active.maximum, config.n_levels, harvested.q999)
        if harvested.q999
        else np.zeros(len(active.key), dtype=np.int64)
    )
    spread = active.window_id[stratify(active.key, level, 2 * config.n_active, config.seed)].tolist()
    controls = _controls(db, harvested, split, config)
    windows = fetch_windows(db, harvested, [*spread, *controls])
    level_of = dict(zip(active.window_id.tolist(), level.tolist(), strict=True))

    def exemplar(window_id: int, kind: Kind) -> Exemplar:
        window, activations = windows[window_id]
        tokens, activations = join_pieces(window.tokens, activations)
        window = replace(window, tokens=tokens)
        return Exemplar(feature, window, activations, kind, level_of.get(window_id, 0))

    shown = distinct([exemplar(w, "active") for w in spread], config.n_active)
    return [*shown, *(exemplar(w, kind) for w, kind in controls.items())]


def _controls(db: Db, feature: HarvestedFeature, split: Split, config: ExemplarConfig) -> dict[int, Kind]:
    """Windows in which the feature is silent, by id, each of one kind: random ones, hard ones, boundary ones."""
    wanted: list[tuple[Kind, int, int]] = [
        ("hard", config.n_hard, 0),
        ("boundary", config.n_boundary, 2),
        ("random", config.n_random, 1),
    ]
    controls: dict[int, Kind] = {}
    for kind, n, salt in wanted:
        drawn = silent_windows(
            db, feature, split, kind, n=n + len(controls) if n else 0, seed=config.seed + salt
        )
        controls |= dict.fromkeys([w for w in drawn if w not in controls][:n], kind)
    order = ("random", "hard", "boundary")
    return dict(sorted(controls.items(), key=lambda of: order.index(of[1])))


def stratify(keys: Sequence[str], level: NDArray[np.int64], n: int, seed: int) -> list[int]:
    """Up to `n` windows spread evenly over levels, strongest level first; drawn by hash within a level.

    Args:
        keys: Where each window lies in the text; the draw hangs on nothing else, so order leaves no trace.
        level: Of each window.
        n: At most so many.
        seed: Of the draw.

    Returns:
        Indices into `keys`.
    """
    by_level: dict[int, list[int]] = {}
    for index in sorted(range(len(keys)), key=lambda i: _rank(keys[i], seed)):
        by_level.setdefault(int(level[index]), []).append(index)
    queues = [by_level[of] for of in sorted(by_level, reverse=True)]
    by_turn: list[int] = []
    for turn in range(max((len(q) for q in queues), default=0)):
        by_turn.extend(q[turn] for q in queues if turn < len(q))
    return by_turn[:n]


def distinct(exemplars: Sequence[Exemplar], n: int) -> list[Exemplar]:
    """The first `n` exemplars whose text round the strongest token differs from those before."""
    seen: set[tuple[str, ...]] = set()
    kept: list[Exemplar] = []
    for exemplar in exemplars:
        peak = _peak_text(exemplar.window, exemplar.activations)
        if peak not in seen:
            seen.add(peak)
            kept.append(exemplar)
    return kept[:n]


def _peak_text(window: Window, activations: tuple[float, ...]) -> tuple[str, ...]:
    peak = int(np.argmax(activations))
    around = window.tokens[max(0, peak - PEAK_TOKENS) : peak + PEAK_TOKENS + 1]
    return tuple(token.strip().lower() for token in around)


def _rank(key: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=8).digest()

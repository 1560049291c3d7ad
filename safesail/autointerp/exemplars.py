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
    active_windows_of,
    fetch_windows_of,
    find_features,
    silent_windows_of,
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
    return collect_all(db, list(find_features(db, [feature]).values()), split, config)[feature]


def collect_all(
    db: Db, features: Sequence[HarvestedFeature], split: Split, config: ExemplarConfig
) -> dict[FeatureId, list[Exemplar]]:
    """The same of several features of one SAE, at once."""
    active = active_windows_of(db, features, split)
    controls = _controls(db, features, split, config)
    spread: dict[FeatureId, list[int]] = {}
    level_of: dict[FeatureId, dict[int, int]] = {}
    for f in features:
        of = active[f.feature]
        level = (
            levels(of.maximum, config.n_levels, f.q999) if f.q999 else np.zeros(len(of.key), dtype=np.int64)
        )
        chosen = stratify(of.key, level, 2 * config.n_active, config.seed)
        spread[f.feature] = of.window_id[chosen].tolist()
        level_of[f.feature] = dict(zip(of.window_id.tolist(), level.tolist(), strict=True))
    windows = fetch_windows_of(db, {f: [*spread[f.feature], *controls[f.feature]] for f in features})

    def exemplar(feature: FeatureId, window_id: int, kind: Kind) -> Exemplar:
        window, activations = windows[feature][window_id]
        tokens, activations = join_pieces(window.tokens, activations)
        window = replace(window, tokens=tokens)
        return Exemplar(feature, window, activations, kind, level_of[feature].get(window_id, 0))

    return {
        f.feature: [
            *distinct([exemplar(f.feature, w, "active") for w in spread[f.feature]], config.n_active),
            *(exemplar(f.feature, w, kind) for w, kind in controls[f.feature].items()),
        ]
        for f in features
    }


def _controls(
    db: Db, features: Sequence[HarvestedFeature], split: Split, config: ExemplarConfig
) -> dict[FeatureId, dict[int, Kind]]:
    """Windows in which a feature is silent, by id, each of one kind: random ones, hard ones, boundary ones."""
    wanted: list[tuple[Kind, int, int]] = [
        ("hard", config.n_hard, 0),
        ("boundary", config.n_boundary, 2),
        ("random", config.n_random, 1),
    ]
    controls: dict[FeatureId, dict[int, Kind]] = {f.feature: {} for f in features}
    before = 0
    for kind, n, salt in wanted:
        n_drawn = n + before if n else 0
        drawn = silent_windows_of(db, features, split, kind, n=n_drawn, seed=config.seed + salt)
        for feature, of in controls.items():
            of |= dict.fromkeys([w for w in drawn[feature] if w not in of][:n], kind)
        before += n
    order = ("random", "hard", "boundary")
    return {f: dict(sorted(of.items(), key=lambda item: order.index(item[1]))) for f, of in controls.items()}


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

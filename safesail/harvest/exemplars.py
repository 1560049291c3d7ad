"""Exemplars and controls of one feature: which windows an explainer is shown, and which a score is computed on."""

import hashlib
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from safesail.domain.config import Config
from safesail.domain.ids import FeatureId
from safesail.domain.records import Exemplar, Kind, Split, Window
from safesail.metrics.quantiles import levels
from safesail.store.connection import Db
from safesail.store.exemplars import active_windows, fetch_windows, find_feature, silent_windows

PEAK_TOKENS = 3
"""Tokens on either side of the strongest one that must differ for two windows to count as different."""


class ExemplarConfig(Config):
    """How many windows of each kind are taken."""

    n_active: Annotated[int, Field(ge=1)] = 10
    """Windows in which the feature fires, spread over activation levels."""

    n_random: Annotated[int, Field(ge=0)] = 5
    """Windows in which it does not fire, drawn from the whole split."""

    n_hard: Annotated[int, Field(ge=0)] = 5
    """Windows in which it does not fire although they hold a token on which it often does."""

    n_levels: Annotated[int, Field(ge=1, le=10)] = 5
    """Activation levels, cut by linear steps up to the feature's 0.999 quantile."""

    seed: int = 0


def collect(db: Db, feature: FeatureId, split: Split, config: ExemplarConfig) -> list[Exemplar]:
    """Windows of one split: active ones over all levels, strongest level first, then controls.

    The same store, feature and seed give the same windows. Fewer are returned where the text has fewer.

    Raises:
        NotFoundError: the store holds no finished harvest of the feature.
    """
    found = find_feature(db, feature)
    window_ids, maxima = active_windows(db, found, split)
    level = (
        levels(maxima, config.n_levels, found.q999) if found.q999 else np.zeros(len(maxima), dtype=np.int64)
    )
    spread = stratify(window_ids, level, 2 * config.n_active, config.seed)
    hard = (
        silent_windows(db, found, split, n=config.n_hard, seed=config.seed, with_tokens=True)
        if found.top_tokens and config.n_hard
        else []
    )
    silent = silent_windows(
        db, found, split, n=config.n_random + len(hard), seed=config.seed + 1, with_tokens=False
    )
    random = [w for w in silent if w not in set(hard)][: config.n_random]
    windows = fetch_windows(db, found, [int(w) for w in (*spread, *random, *hard)])
    level_of = dict(zip(window_ids.tolist(), level.tolist(), strict=True))

    def exemplar(window_id: int, kind: Kind) -> Exemplar:
        window, activations = windows[window_id]
        return Exemplar(feature, window, activations, kind, level_of.get(window_id, 0))

    active = distinct([exemplar(int(w), "active") for w in spread], config.n_active)
    controls = [exemplar(w, "random") for w in random] + [exemplar(w, "hard") for w in hard]
    return [*active, *controls]


def stratify(window_ids: NDArray[np.int64], level: NDArray[np.int64], n: int, seed: int) -> list[int]:
    """Up to `n` windows spread evenly over levels, strongest level first; drawn by hash within a level."""
    by_level: dict[int, list[int]] = {}
    for window_id, of in sorted(
        zip(window_ids.tolist(), level.tolist(), strict=True), key=lambda w: _rank(w[0], seed)
    ):
        by_level.setdefault(of, []).append(window_id)
    queues = [by_level[of] for of in sorted(by_level, reverse=True)]
    taken: list[int] = []
    for turn in range(max((len(q) for q in queues), default=0)):
        taken.extend(q[turn] for q in queues if turn < len(q))
    return taken[:n]


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


def _rank(window_id: int, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}/{window_id}".encode(), digest_size=8).digest()

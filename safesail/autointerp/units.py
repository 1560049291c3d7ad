"""What is asked about each window: units of text, and what is true of them. Pure."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from safesail.autointerp.config import ScoringConfig
from safesail.domain.records import Exemplar
from safesail.errors import BadAnswerError
from safesail.prompting.marking import marked, plain, safe_text
from safesail.prompting.segments import cut_segments
from safesail.store.token_table import Table


@dataclass(frozen=True)
class Units:
    """One window as a simulator sees it."""

    texts: tuple[str, ...]
    """One per unit: its segments, its tokens, or the whole window."""

    true: tuple[float, ...]
    """What a simulation is compared with, one a unit: 0 or 1, or an activation in SAE units."""

    active: tuple[bool, ...]
    """Whether the feature fires in the unit."""

    tokens: tuple[tuple[str, ...], ...]
    """Of the window's tokens those that a look-up has for each unit; of a marked window the marked ones."""


@dataclass(frozen=True)
class Simulated:
    """What a simulator said of one window."""

    units: Units
    predicted: tuple[float, ...]
    """One per unit: 0 or 1, or a rating from 0 to 10."""


@dataclass(frozen=True)
class Simulation:
    """All that a simulator said of one explanation."""

    windows: tuple[Simulated, ...] = ()
    failures: tuple[BadAnswerError, ...] = ()
    """One a batch whose answer could not be used."""

    n_failed: int = 0
    """Windows in those batches."""

    tokens: int = 0
    """Billed for all answers, those from the cache as they were billed then."""

    def __add__(self, other: "Simulation") -> "Simulation":
        return Simulation(
            self.windows + other.windows,
            self.failures + other.failures,
            self.n_failed + other.n_failed,
            self.tokens + other.tokens,
        )


def units_of(windows: Sequence[Exemplar], config: ScoringConfig) -> list[Units]:
    """The units of every window, by the method of `config`."""
    match config.method:
        case "segment" | "pooled":
            return [segment_units(e.window.tokens, e.activations, config) for e in windows]
        case "token":
            return [_tokens(e, config) for e in windows]
        case "detection":
            return [_whole(plain(e.window.tokens), e.window.tokens, e, config) for e in windows]
        case "fuzzing":
            n_marks = _typical_marks(windows, config)
            return [_fuzzed(e, n_marks, config) for e in windows]


def segment_units(tokens: Sequence[str], activations: Sequence[float], config: ScoringConfig) -> Units:
    """The segments of one text, with a feature's activation on each of its tokens."""
    cuts, texts, parts = _segments(tuple(tokens), config.segment_tokens)
    maxima = [max(activations[start:stop]) for start, stop in cuts]
    active = tuple(maximum > config.threshold for maximum in maxima)
    return Units(
        texts=texts,
        true=tuple(maxima) if config.graded else tuple(map(float, active)),
        active=active,
        tokens=parts,
    )


@lru_cache(maxsize=256)
def _segments(
    tokens: tuple[str, ...], size: int
) -> tuple[tuple[tuple[int, int], ...], tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Where a text is cut, its segments as they are shown, and as tokens; all features of a prompt share its texts."""
    cuts = cut_segments(tokens, size)
    parts = tuple(tokens[start:stop] for start, stop in cuts)
    return cuts, tuple(map(plain, parts)), parts


def _tokens(exemplar: Exemplar, config: ScoringConfig) -> Units:
    return Units(
        texts=tuple(map(safe_text, exemplar.window.tokens)),
        true=exemplar.activations,
        active=tuple(a > config.threshold for a in exemplar.activations),
        tokens=tuple((token,) for token in exemplar.window.tokens),
    )


def _whole(text: str, tokens: Sequence[str], exemplar: Exemplar, config: ScoringConfig) -> Units:
    active = max(exemplar.activations) > config.threshold
    return Units((text,), (float(active),), (active,), (tuple(tokens),))


def _typical_marks(windows: Sequence[Exemplar], config: ScoringConfig) -> int:
    """Tokens marked in a control: as many as are active in an active window on average, rounded up."""
    counts = [n for e in windows if (n := sum(a > config.threshold for a in e.activations))]
    return int(np.ceil(np.mean(counts))) if counts else 1


def _fuzzed(exemplar: Exemplar, n_marks: int, config: ScoringConfig) -> Units:
    """The window with marks: on its active tokens, or in a control on as many drawn at random, as Delphi does."""
    tokens, activations = exemplar.window.tokens, exemplar.activations
    at = [i for i, a in enumerate(activations) if a > config.threshold]
    if not at:
        words = [i for i, token in enumerate(tokens) if token.strip()]
        n_drawn = min(n_marks, len(words))
        at = _rng(exemplar, config.seed).choice(words, n_drawn, replace=False).tolist() if words else []
    text = marked(tokens, [int(i in at) for i in range(len(tokens))], with_level=False)
    return _whole(text, [tokens[i] for i in at], exemplar, config)


def looked_up(units: Units, table: Table) -> tuple[float, ...]:
    """What a look-up predicts of every unit: the largest mean activation of its tokens."""
    return tuple(max((table.get(token, 0.0) for token in tokens), default=0.0) for tokens in units.tokens)


def _rng(exemplar: Exemplar, seed: int) -> np.random.Generator:
    """Random numbers keyed by the window, not by the order of windows."""
    key = f"{seed}/{exemplar.feature}/{exemplar.window.document_id}/{exemplar.window.start}"
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big"))

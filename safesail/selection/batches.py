"""Concept pairs as batches of token rows, both sides of a pair together. Knows no model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from safesail.domain.records import Concept
from safesail.errors import ConfigError
from safesail.selection.config import SelectionConfig
from safesail.subject.rows import batches_by_length

Tokenize = Callable[[str], Sequence[int]]

_CHUNK_PAIRS = 256
"""Pairs that are sorted by length together: enough for little padding, few enough to hold their firing."""


@dataclass(frozen=True)
class TokenPair:
    """One pair in a subject model's tokens."""

    concept: int
    """Number of its concept in the set."""

    pos: NDArray[np.int32]
    neg: NDArray[np.int32]

    @property
    def longest(self) -> int:
        """Tokens of the longer side."""
        return max(len(self.pos), len(self.neg))


@dataclass(frozen=True)
class Batch:
    """Pairs that go through the subject model together; rows are q+, q-, q+, q-, ..."""

    pairs: tuple[TokenPair, ...]

    @property
    def rows(self) -> list[list[int]]:
        """Token rows in order."""
        return [side.tolist() for pair in self.pairs for side in (pair.pos, pair.neg)]

    @property
    def concepts(self) -> NDArray[np.int64]:
        """Number of each pair's concept."""
        return np.array([pair.concept for pair in self.pairs], np.int64)

    @property
    def gaps(self) -> NDArray[np.int64]:
        """Tokens of q+ minus tokens of q-, per pair."""
        return np.array([len(pair.pos) - len(pair.neg) for pair in self.pairs], np.int64)


@dataclass(frozen=True)
class Chunk:
    """Whole concepts: once its batches are through, their figures can be computed and the firing dropped."""

    concepts: tuple[int, ...]
    batches: tuple[Batch, ...]


def tokenize_pairs(
    concepts: Sequence[Concept], tokenize: Tokenize, n_ctx_max: int, config: SelectionConfig
) -> list[list[TokenPair]]:
    """Pairs of each concept in the languages and forms that `config` asks for.

    Raises:
        ConfigError: a text has no tokens or more than `n_ctx_max`, or no pair is left.
    """
    pairs = [
        list(_pairs(number, concept, tokenize, n_ctx_max, config)) for number, concept in enumerate(concepts)
    ]
    if not any(pairs):
        raise ConfigError(
            f"no pair is in the languages {config.languages or 'any'} and forms {config.forms or 'any'}"
        )
    return pairs


def cut_chunks(pairs: Sequence[Sequence[TokenPair]], batch_tokens: int) -> list[Chunk]:
    """All pairs in batches of at most `batch_tokens` tokens, padding included, but at least one pair.

    The order of a concept's pairs does not depend on `batch_tokens`.
    """
    chunks: list[Chunk] = []
    waiting: list[int] = []
    for number in range(len(pairs)):
        waiting.append(number)
        if sum(len(pairs[i]) for i in waiting) >= _CHUNK_PAIRS or number == len(pairs) - 1:
            inside = [p for i in waiting for p in pairs[i]]
            # Half, for the two sides of a pair.
            batches = batches_by_length([p.longest for p in inside], batch_tokens // 2)
            chunks.append(Chunk(tuple(waiting), tuple(Batch(tuple(inside[i] for i in b)) for b in batches)))
            waiting = []
    return chunks


def _pairs(
    number: int, concept: Concept, tokenize: Tokenize, n_ctx_max: int, config: SelectionConfig
) -> Iterator[TokenPair]:
    for pair in concept.pairs:
        if config.languages is not None and pair.lang not in config.languages:
            continue
        if config.forms is not None and pair.form not in config.forms:
            continue
        sides = {
            side: np.array(tokenize(text), np.int32) for side, text in (("pos", pair.pos), ("neg", pair.neg))
        }
        for side, ids in sides.items():
            where = f"concept {concept.concept_id}, {side} {getattr(pair, side)[:40]!r}"
            if len(ids) == 0:
                raise ConfigError(f"{where}: the subject model sees no token in it; write a text")
            if len(ids) > n_ctx_max:
                raise ConfigError(
                    f"{where}: {len(ids)} tokens, the subject model takes {n_ctx_max}; shorten it"
                )
        yield TokenPair(number, sides["pos"], sides["neg"])

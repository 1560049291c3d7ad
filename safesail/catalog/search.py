"""Search over explanations: by their words, by their meaning, or by both."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from safesail.catalog.meaning import Embedder, MeaningIndex, read_vectors
from safesail.catalog.words import WordIndex, WordMatches, parse_terms
from safesail.concepts.taxonomy import taxonomy
from safesail.errors import ConfigError
from safesail.resources import cache_dir
from safesail.store.connection import Db
from safesail.store.search import matching_texts, number_texts, text_rows, texts_digest

By = Literal["words", "meaning", "both"]

FUSION_K = 60
"""Of Cormack, Clarke and Buettcher (2009), `Reciprocal Rank Fusion outperforms Condorcet and individual Rank
Learning Methods`, SIGIR: how little the first ranks count above later ones."""


@dataclass(frozen=True)
class Hit:
    """A feature whose explanation matches."""

    sae_id: str
    layer: int | None
    index: int
    explanation: str
    tags: tuple[str, ...]
    score: float | None
    rank: float
    """Larger is better; comparable within one search only: BM25 by words, the cosine by meaning, and both
    fused, the sum over the two of 1 / (60 + rank)."""


@dataclass(frozen=True)
class SearchResult:
    """Hits, best first, and how they were found."""

    hits: tuple[Hit, ...]
    method: str
    """`by words`, `by meaning` or `by words and meaning`, with what was left out."""

    complete: bool
    """False where only some of the matches by words were ranked."""


@dataclass(frozen=True)
class RankedTexts:
    """Numbers of the best texts, best first, and how they were found."""

    ranked: tuple[tuple[int, float], ...]
    """(number, rank), as `Hit.rank` has it."""

    method: str
    complete: bool

    @property
    def numbers(self) -> list[int]:
        """Without their ranks."""
        return [number for number, _ in self.ranked]


class SearchIndex:
    """The texts of one open catalog, ready to be searched; made where they are not kept already."""

    def __init__(self, db: Db, folder: Path | None = None) -> None:
        """Number the texts.

        Args:
            db: An open catalog.
            folder: Where indexes are kept; the user's cache where None.
        """
        self._db = db
        self._folder = folder or cache_dir() / "search"
        self.n_texts = number_texts(db)
        self._digest = texts_digest(db)
        self._words: WordIndex | None = None
        self._meaning: MeaningIndex | None = None

    def add_words(self) -> "SearchIndex":
        """Search by words from here on."""
        self._words = WordIndex.of(self._db, self._folder / f"{self._digest}.sqlite", self.n_texts)
        return self

    def add_meaning(
        self, embedder: Embedder, progress: Callable[[int], object] | None = None
    ) -> "SearchIndex":
        """Search by meaning from here on; `progress` is told of every batch of texts whose vectors are made."""
        path = self._vector_path(embedder)
        self._meaning = MeaningIndex.of(self._db, embedder, path, self.n_texts, progress)
        return self

    def has_vectors(self, embedder: Embedder) -> bool:
        """Whether the texts' vectors were made."""
        return read_vectors(self._vector_path(embedder), (self.n_texts, embedder.d_vector)) is not None

    @property
    def vectors(self) -> NDArray[np.float16] | None:
        """Of the texts' meaning, by their numbers; None: they are searched by words only."""
        return None if self._meaning is None else self._meaning.vectors

    def close(self) -> None:
        """Close the files."""
        if self._words is not None:
            self._words.close()

    @property
    def method(self) -> str:
        """`by words`, `by meaning` or `by words and meaning`."""
        parts = {"words": self._words, "meaning": self._meaning}
        return "by " + " and ".join(name for name, part in parts.items() if part is not None)

    def search(
        self, text: str, *, domain: str | None = None, min_score: float | None = None, limit: int = 10
    ) -> SearchResult:
        """Features whose explanations match `text`, best first.

        Args:
            text: Words; their forms count as one (`smuggling` finds `smuggle`).
            domain: Only features with this domain's tag, or one of its leaves'.
            min_score: Only features with at least this score.
            limit: At most so many.

        Raises:
            ConfigError: no words, an unknown domain, or a limit below one.
        """
        if limit < 1:
            raise ConfigError(f"a limit is at least 1, not {limit}")
        parse_terms(text)
        tags = taxonomy().tags_of(domain) if domain is not None else ()
        allowed = matching_texts(self._db, tags, min_score) if tags or min_score is not None else None
        ranked = self.ranked(text, limit=limit, allowed=allowed)
        return SearchResult(self._hits(list(ranked.ranked)), ranked.method, ranked.complete)

    def ranked(self, text: str, *, limit: int, allowed: NDArray[np.bool_] | None = None) -> RankedTexts:
        """Numbers of the texts that match `text`, best first.

        Args:
            text: Words.
            limit: At most so many.
            allowed: Whether each text may be found; all may where None.

        Raises:
            ConfigError: no words.
        """
        terms = parse_terms(text)
        # Deeper than the answer where both are asked: what is tenth in both belongs before what is first in one.
        depth = limit if self._words is None or self._meaning is None else limit + 100
        # At the same time: both spend theirs outside Python. SQLite stays in the thread that opened it.
        with ThreadPoolExecutor(1) as pool:
            near = self._meaning and pool.submit(self._meaning.nearest, text, depth, allowed)
            matches = self._words.nearest(terms, depth, allowed) if self._words else WordMatches([], True, ())
        rankings = [matches.ranked] * (self._words is not None) + ([near.result()] if near else [])
        ranked = fuse(rankings) if len(rankings) > 1 else rankings[0]
        common = f"; too common to count: {', '.join(matches.left_out)}" if matches.left_out else ""
        return RankedTexts(tuple(ranked[:limit]), f"{self.method}{common}", matches.complete)

    def _vector_path(self, embedder: Embedder) -> Path:
        return self._folder / f"{self._digest}.{embedder.name}.npy"

    def _hits(self, ranked: list[tuple[int, float]]) -> tuple[Hit, ...]:
        hits = {number: cells for number, *cells in text_rows(self._db, [number for number, _ in ranked])}
        return tuple(
            Hit(sae_id, layer, index, text, tuple(tags), score, rank)
            for (sae_id, layer, index, text, tags, score), rank in (
                (hits[number], rank) for number, rank in ranked
            )
        )


def fuse(rankings: list[list[tuple[int, float]]]) -> list[tuple[int, float]]:
    """Rankings as one, by the sum of 1 / (60 + rank) (Cormack et al. 2009); ties by number."""
    sums: dict[int, float] = {}
    for ranking in rankings:
        for rank, (number, _) in enumerate(ranking, 1):
            sums[number] = sums.get(number, 0.0) + 1 / (FUSION_K + rank)
    return sorted(sums.items(), key=lambda item: (-item[1], item[0]))

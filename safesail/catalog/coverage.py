"""The blind spots: concepts, and texts, that no explained feature covers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safesail.catalog.source import open_source
from safesail.domain.ids import content_id
from safesail.store.connection import Db
from safesail.store.overview import concept_coverage, document_coverage

TextState = Literal["covered", "uncovered", "unknown"]


@dataclass(frozen=True)
class ConceptCover:
    """A concept, on one SAE."""

    concept_id: str
    domain: str
    leaf: str | None
    layer: int | None
    sae_id: str | None
    """None where no SAE was selected by this store's concepts."""

    candidates: int
    """Features that tell its pairs apart."""

    explained: int
    """Those of them with a readable explanation: 0 is a blind spot."""

    best_score: float | None


@dataclass(frozen=True)
class TextCover:
    """A text, on one SAE."""

    text: str
    sae_id: str | None
    layer: int | None
    state: TextState
    """`unknown`: the store did not harvest it, or kept only part of its activations and found none strong."""

    n_features: int
    """Explained features that fire in it at or above their own 0.9 quantile."""

    strongest: int | None
    """Index of the strongest of them."""


@dataclass(frozen=True)
class Coverage:
    """What the catalog covers."""

    concepts: tuple[ConceptCover, ...]
    texts: tuple[TextCover, ...]

    def blind_spots(self) -> dict[tuple[str, int | None], tuple[int, int]]:
        """Concepts without an explained feature, and all concepts, by domain and layer."""
        all_of = Counter((c.domain, c.layer) for c in self.concepts)
        blind = Counter((c.domain, c.layer) for c in self.concepts if c.explained == 0)
        return {key: (blind[key], n) for key, n in all_of.items()}

    def uncovered(self) -> tuple[TextCover, ...]:
        """Texts that were harvested whole and that no explained feature fires strongly in."""
        return tuple(text for text in self.texts if text.state == "uncovered")


def coverage(store: Path, texts: Sequence[str] = (), *, min_score: float | None = None) -> Coverage:
    """Measure a catalog's coverage of its concepts, and of texts that were harvested into the store.

    A text that the store does not know is `unknown`: run `safesail harvest` on its file first.

    Args:
        store: A store; a release knows concepts, but no texts.
        texts: As they were harvested.
        min_score: Explanations that score lower do not cover a text.

    Raises:
        NotFoundError: no store.
    """
    with open_source(store) as db:
        concepts = tuple(ConceptCover(*row) for row in concept_coverage(db))
        return Coverage(concepts, tuple(_cover_texts(db, texts, min_score)))


def _cover_texts(db: Db, texts: Sequence[str], min_score: float | None) -> list[TextCover]:
    by_id = {content_id(text): text for text in texts}
    covered = document_coverage(db, list(by_id), min_score) if by_id else []
    covers = [
        TextCover(by_id[document_id], sae_id, layer, _state(n, whole=whole), n, strongest)
        for document_id, sae_id, layer, whole, n, strongest in covered
    ]
    known = {row[0] for row in covered}
    return covers + [
        TextCover(text, None, None, "unknown", 0, None) for key, text in by_id.items() if key not in known
    ]


def _state(n: int, *, whole: bool) -> TextState:
    if n:
        return "covered"
    return "uncovered" if whole else "unknown"

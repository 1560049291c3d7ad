"""The open catalog that all pages read: one connection, its indexes, and what is computed once.

Not safe for threads: a server does all its reading in one (SQLite's index must stay in the thread that opened it).
"""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safesail.catalog.embedder import open_index
from safesail.catalog.query import parse_memory
from safesail.catalog.search import By, SearchIndex
from safesail.catalog.source import is_release, open_source
from safesail.concepts.taxonomy import taxonomy
from safesail.store.calls import total_tokens
from safesail.store.connection import Db
from safesail.store.feature_page import (
    has_rows,
    headline_methods,
    n_activations,
    saes_with_windows,
)
from safesail.store.overview import all_tags
from safesail.store.query import hold_catalog, lock
from safesail.store.search import known_concepts
from safesail.store.shelf import (
    MAX_DOMAINS,
    Totals,
    fill_shelf,
    searched_rows,
    shelf_masks,
    shelf_saes,
    totals,
)

OTHER = "other"
"""Domain of tags for which no bit is left."""


@dataclass(frozen=True)
class ShownSae:
    """An SAE of the catalog."""

    key: int
    sae_id: str
    model_id: str
    layer: int | None
    hook: str
    d_sae: int | None
    architecture: str | None
    k: int | None
    n_features: int
    """In the catalog."""


@dataclass(frozen=True)
class Source:
    """What is looked at."""

    name: str
    """Of the file or folder."""

    is_release: bool


class Desk:
    """An open catalog with what its pages share. Made by `open_desk`."""

    def __init__(self, db: Db, source: Source, index: SearchIndex, note: str | None) -> None:
        self.db = db
        self.source = source
        self.index = index
        self.search_note = note
        """Why searches do not go by meaning; None: they do."""

        self.totals: Totals = totals(db)
        self.saes = [ShownSae(*row) for row in shelf_saes(db)]
        self.tokens_spent = total_tokens(db)
        self.memo: dict[Any, Any] = {}
        """Results that a page keeps for the next one; keyed by what they are of."""

        self._lock = threading.Lock()

    @cached_property
    def domains(self) -> list[str]:
        """Domains of the catalog's tags by their bits."""
        return bits_of_tags(self.db)[1]

    @cached_property
    def domain_of_tag(self) -> dict[str, str]:
        """Domain of every tag."""
        return domains_of_tags(self.db)

    @cached_property
    def searched(self) -> NDArray[np.int64]:
        """Row of the shelf of every explanation, by the number that searches give it."""
        return searched_rows(self.db)

    @cached_property
    def masks(self) -> list[int]:
        """Bits of every row's domains, by its number on the shelf."""
        return shelf_masks(self.db)

    @cached_property
    def saes_by_key(self) -> dict[int, ShownSae]:
        """SAEs by their short keys."""
        return {sae.key: sae for sae in self.saes}

    @cached_property
    def n_activations(self) -> int:
        """Stored nonzeros; 0 in a release, whose exemplars are all it has."""
        return 0 if self.source.is_release else n_activations(self.db)

    @cached_property
    def methods(self) -> dict[str, tuple[str, str, str]]:
        """By SAE the method, simulator and settings whose scores the catalog shows."""
        return headline_methods(self.db)

    @cached_property
    def windowed(self) -> set[str]:
        """SAEs of whose features there are windows."""
        return saes_with_windows(self.db)

    @cached_property
    def has_directions(self) -> bool:
        """Whether a stage recorded which decoder directions are close."""
        return has_rows(self.db, "near_features")

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """`make()`, made once for each key."""
        with self._lock:
            if key in self.memo:
                return self.memo[key]
        made = make()
        with self._lock:
            return self.memo.setdefault(key, made)


def domains_of_tags(db: Db) -> dict[str, str]:
    """Domain of every tag: the taxonomy's, or that of the concept it names; else it stands for itself."""
    concepts = {concept_id.rpartition(".")[2]: domain for concept_id, domain, _ in known_concepts(db)}
    return {tag: taxonomy().domain_of(tag) or concepts.get(tag, tag) for tag, _ in all_tags(db)}


def bits_of_tags(db: Db) -> tuple[dict[str, int], list[str]]:
    """Bit of every tag's domain, and the domains by their bits, the most frequent first."""
    by_domain: dict[str, int] = {}
    domain_of = domains_of_tags(db)
    for tag, n in all_tags(db):
        by_domain[domain_of[tag]] = by_domain.get(domain_of[tag], 0) + int(n)
    order = sorted(by_domain, key=lambda domain: (-by_domain[domain], domain))
    if len(order) > MAX_DOMAINS:
        order = [*order[: MAX_DOMAINS - 1], OTHER]
    bit = {domain: number for number, domain in enumerate(order)}
    return {tag: bit.get(domain, len(order) - 1) for tag, domain in domain_of.items()}, order


@contextmanager
def open_desk(
    path: Path, *, by: By | None = None, memory: str = "4GB", quiet: bool = False
) -> Generator[Desk, None, None]:
    """Open a store or a release for a viewer, read-only.

    Args:
        path: A store, or a release's folder or zip.
        by: How searches go, as in `open_index`.
        memory: Most memory of the database's own.
        quiet: No progress on stderr.

    Raises:
        NotFoundError: nothing there.
        StoreLockedError: a stage is writing to the store.
        DataError: it is damaged.
        ConfigError: `memory` is no size.
    """
    limit = parse_memory(memory)
    with open_source(path) as db:
        hold_catalog(db)
        fill_shelf(db, bits_of_tags(db)[0])
        lock(db, memory=f"{limit // 2**10}KiB")
        index, note = open_index(db, by, quiet=quiet)
        try:
            yield Desk(db, Source(path.name, is_release(path)), index, note)
        finally:
            index.close()

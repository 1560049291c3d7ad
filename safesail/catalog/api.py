"""A catalog in Python: `with open_catalog(path) as catalog: catalog.query(sql)` gives pandas."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from safesail.catalog.meaning import Embedder
from safesail.catalog.query import parse_memory
from safesail.catalog.search import SearchIndex, SearchResult
from safesail.catalog.show import ShownFeature, show_feature
from safesail.catalog.source import open_source
from safesail.catalog.stats import Stats, plot_stats, stats
from safesail.domain.ids import FeatureId, parse_feature
from safesail.store.connection import Db
from safesail.store.query import hold_catalog, lock, select


class Catalog:
    """An open catalog, read-only. Made by `open_catalog`."""

    def __init__(self, db: Db, *, memory: int, embedder: Embedder | None = None) -> None:
        self._db = db
        self._memory = memory
        self._embedder = embedder
        self._index: SearchIndex | None = None

    def query(self, sql: str, *, timeout: float = 30.0) -> pd.DataFrame:
        """One SELECT on the tables and views, as pandas; nothing outside the catalog can be read.

        Raises:
            ConfigError: the query is refused, wrong, or goes over a limit.
        """
        return select(self._db, sql, timeout=timeout, max_bytes=self._memory).to_pandas()

    def features(self) -> pd.DataFrame:
        """The catalog, one row per feature."""
        return self.query('SELECT * FROM catalog ORDER BY sae_id, "index"')

    def show(self, feature: FeatureId | str, *, n_windows: int = 5) -> ShownFeature:
        """All that is known of a feature, by its name such as `"sae#851"`.

        Raises:
            NotFoundError: the catalog does not have it.
        """
        named = parse_feature(feature) if isinstance(feature, str) else feature
        return show_feature(self._db, named, n_windows=n_windows)

    def search(
        self, text: str, *, domain: str | None = None, min_score: float | None = None, limit: int = 10
    ) -> SearchResult:
        """Features whose explanations match `text`, best first: by words, and by meaning with an embedder.

        Raises:
            ConfigError: no words, or an unknown domain.
        """
        if self._index is None:
            self._index = SearchIndex(self._db).add_words()
            if self._embedder is not None:
                self._index.add_meaning(self._embedder)
        return self._index.search(text, domain=domain, min_score=min_score, limit=limit)

    def stats(self) -> Stats:
        """Counts and score distributions."""
        return stats(self._db)

    def plot(self, out: Path) -> None:
        """The score distributions as an image."""
        plot_stats(self._db, out)

    def close(self) -> None:
        """Let go of the search index."""
        if self._index is not None:
            self._index.close()


@contextmanager
def open_catalog(
    path: Path, *, memory: str = "4GB", embedder: Embedder | None = None
) -> Generator[Catalog, None, None]:
    """Open a store or a release for many questions.

    The view `catalog` is computed once and held (three seconds for a million features), so that
    what follows takes milliseconds.

    Args:
        path: A store, or a release's folder or zip.
        memory: Most memory of the database's own.
        embedder: Searches go by meaning too, such as with `safesail.catalog.embedder.MiniLMEmbedder()`.

    Raises:
        NotFoundError: nothing there.
        StoreLockedError: a stage is writing to the store.
        DataError: it is damaged.
    """
    limit = parse_memory(memory)
    with open_source(path) as db:
        hold_catalog(db)
        lock(db, memory=f"{limit // 2**10}KiB")
        catalog = Catalog(db, memory=limit, embedder=embedder)
        try:
            yield catalog
        finally:
            catalog.close()


def show(path: Path, feature: FeatureId, *, n_windows: int = 5) -> ShownFeature:
    """All that is known of one feature of a store or release.

    Raises:
        NotFoundError: the catalog does not have it.
    """
    with open_source(path) as db:
        return show_feature(db, feature, n_windows=n_windows)


def search_catalog(
    path: Path, text: str, *, domain: str | None = None, min_score: float | None = None, limit: int = 10
) -> SearchResult:
    """Search a store or release once.

    Raises:
        ConfigError: no words, or an unknown domain.
    """
    with open_catalog(path) as catalog:
        return catalog.search(text, domain=domain, min_score=min_score, limit=limit)


def catalog_stats(path: Path, *, plot: Path | None = None) -> Stats:
    """Counts and score distributions of a store or release, drawn into `plot` too where given."""
    with open_source(path) as db:
        if plot is not None:
            plot_stats(db, plot)
        return stats(db)

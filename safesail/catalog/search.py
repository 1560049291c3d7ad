"""Full-text search over explanations: SQLite's FTS5 with BM25, in a file beside other caches.

The index holds texts only and is named by their content, so scores and tags may change without a new one.
"""

import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from safesail.catalog.matches import MAX_RANKED, Matches, parse_terms, spaced
from safesail.catalog.taxonomy import taxonomy
from safesail.errors import ConfigError
from safesail.resources import cache_dir
from safesail.store.connection import Db
from safesail.store.search import IndexedText, SearchFilter, find_hits, indexed_texts, texts_digest

COMMON_SHARE = 0.05
"""A word in more of the explanations than this says little; it is left out where a rarer one is asked for too."""


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
    fused, the sum over the two of 1 / (60 + place)."""


@dataclass(frozen=True)
class SearchResult:
    """Hits, best first, and how they were found."""

    hits: tuple[Hit, ...]
    method: str
    """`by words`, `by meaning` or `by words and meaning`, with what was left out."""

    complete: bool
    """False where only the first `MAX_RANKED` matches were ranked."""


class Index(Protocol):
    """Something that finds features by text."""

    @property
    def method(self) -> str:
        """How it finds them: `by words`."""
        ...

    def matches(self, text: str, limit: int) -> Matches:
        """The best `limit` features for `text`.

        Raises:
            ConfigError: `text` holds no word.
        """
        ...


class SearchIndex:
    """The texts of one catalog, ready to be searched by their words."""

    method = "by words"

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._n: int = connection.execute("SELECT count(*) FROM place").fetchone()[0]
        self._found: dict[str, int] = {}

    @classmethod
    def of(cls, db: Db, folder: Path | None = None) -> "SearchIndex":
        """The index of an open catalog, from the cache, or built and put there.

        Args:
            db: An open store.
            folder: Where indexes are kept; the user's cache where None. One that cannot be
                written to is no fault: the index is then held in memory.
        """
        folder = folder or cache_dir() / "search"
        path = folder / f"{texts_digest(db)}.sqlite"
        try:
            if not path.is_file():
                folder.mkdir(parents=True, exist_ok=True)
                partial = folder / f"{path.name}.{os.getpid()}.partial"
                partial.unlink(missing_ok=True)
                with closing(sqlite3.connect(partial)) as connection:
                    _fill(connection, indexed_texts(db))
                partial.replace(path)
            # One index serves readers in several threads one after the other, as the viewer does.
            return cls(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, check_same_thread=False))
        except (OSError, sqlite3.Error):
            connection = sqlite3.connect(":memory:", check_same_thread=False)
            _fill(connection, indexed_texts(db))
            return cls(connection)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def matches(self, text: str, limit: int) -> Matches:
        """Features whose text holds the words: those with all of them, then those with some.

        Raises:
            ConfigError: `text` holds no word.
        """
        terms = parse_terms(text)
        rare = [term for term in terms if self._n < 1000 or self._frequency(term) <= COMMON_SHARE * self._n]
        used = rare or terms
        found, n = self._ranked(" AND ".join(used), limit)
        if len(found) < limit and len(used) > 1:
            seen = {(sae_id, index) for sae_id, index, _ in found}
            some, n = self._ranked(" OR ".join(used), limit)
            found = (found + [hit for hit in some if hit[:2] not in seen])[:limit]
        return Matches(found, n, tuple(term.strip('"') for term in terms if term not in used))

    def _ranked(self, query: str, limit: int) -> tuple[list[tuple[str, int, float]], int]:
        """The best `limit` of the matches that are ranked, and how many matches there are, up to one more."""
        rows = self._db.execute(
            "SELECT p.sae_id, p.feature, -m.score, m.n FROM ("
            " SELECT id, score, count(*) OVER () AS n FROM ("
            "  SELECT rowid AS id, bm25(text) AS score FROM text WHERE text MATCH ? LIMIT ?)"
            " ORDER BY score, id LIMIT ?) m JOIN place p ON p.id = m.id ORDER BY m.score, p.id",
            [query, MAX_RANKED + 1, limit],
        ).fetchall()
        return [(str(r[0]), int(r[1]), float(r[2])) for r in rows], rows[0][3] if rows else 0

    def _frequency(self, term: str) -> int:
        """Explanations with a term, counted up to the share that makes it a common one."""
        if term not in self._found:
            self._found[term] = self._count(term)
        return self._found[term]

    def _count(self, query: str) -> int:
        enough = max(int(COMMON_SHARE * self._n), MAX_RANKED) + 1
        row = self._db.execute(
            "SELECT count(*) FROM (SELECT 1 FROM text WHERE text MATCH ? LIMIT ?)", [query, enough]
        ).fetchone()
        return int(row[0])


def search(
    db: Db, index: Index, text: str, *, domain: str | None, min_score: float | None, limit: int
) -> SearchResult:
    """Features whose explanations match `text`, best first.

    Args:
        db: The open catalog.
        index: Of the same catalog.
        text: Words; their forms count as one (`smuggling` finds `smuggle`).
        domain: Only features with this domain's tag, or one of its leaves'.
        min_score: Only features with at least this score.
        limit: At most so many.

    Raises:
        ConfigError: no words, an unknown domain, or a limit below one.
    """
    if limit < 1:
        raise ConfigError(f"a limit is at least 1, not {limit}")
    tags = taxonomy().tags_of(domain) if domain is not None else ()
    chosen = SearchFilter(tags, min_score)
    # A filter may throw out most of the matches, so more of them are looked at, step by step.
    filtered = bool(tags) or min_score is not None
    steps = [max(600, 20 * limit), max(4_000, 100 * limit), MAX_RANKED] if filtered else [limit, MAX_RANKED]
    matches = index.matches(text, steps[0])
    hits = _hits(db, matches, chosen, limit)
    for before, looked_at in pairwise(steps):
        if len(hits) == limit or matches.n <= before:
            break
        matches = index.matches(text, looked_at)
        hits = _hits(db, matches, chosen, limit)
    common = f"; too common to count: {', '.join(matches.left_out)}" if matches.left_out else ""
    return SearchResult(hits, f"{index.method}{common}", matches.n <= MAX_RANKED)


def _hits(db: Db, matches: Matches, chosen: SearchFilter, limit: int) -> tuple[Hit, ...]:
    ranks = {(sae_id, index): rank for sae_id, index, rank in matches.found}
    rows = find_hits(db, list(ranks), chosen, limit)
    return tuple(
        Hit(str(r[0]), r[1], int(r[2]), str(r[3]), tuple(r[4]), r[5], ranks[(str(r[0]), int(r[2]))])
        for r in rows
    )


def _fill(connection: sqlite3.Connection, texts: Iterable[list[IndexedText]]) -> None:
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute(
        "CREATE VIRTUAL TABLE text USING fts5(words, content='', tokenize='porter unicode61 remove_diacritics 2')"
    )
    connection.execute(
        "CREATE TABLE place (id INTEGER PRIMARY KEY, sae_id TEXT NOT NULL, feature INTEGER NOT NULL)"
    )
    start = 1
    for batch in texts:
        numbered = list(enumerate(batch, start))
        start += len(batch)
        connection.executemany(
            "INSERT INTO place VALUES (?, ?, ?)", [(n, one.sae_id, one.feature) for n, one in numbered]
        )
        connection.executemany(
            "INSERT INTO text (rowid, words) VALUES (?, ?)", [(n, spaced(one.text)) for n, one in numbered]
        )
    connection.execute("INSERT INTO text (text) VALUES ('optimize')")
    connection.commit()

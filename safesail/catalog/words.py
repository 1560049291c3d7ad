"""Search by words: SQLite's FTS5 with BM25, in a file beside other caches.

The file holds texts only and is named by their content, so scores and tags may change without a new one.
"""

import re
import sqlite3
import unicodedata
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from safesail.errors import ConfigError, DataError
from safesail.files import whole_file
from safesail.store.connection import Db
from safesail.store.search import searched_texts

MAX_TERMS = 32
MAX_RANKED = 20_000
"""At most so many matches are ranked."""

COMMON_SHARE = 0.05
"""A word in more of the explanations than this says little; it is left out where a rarer one is asked for too."""

_CJK = r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
_TERM = re.compile(rf"{_CJK}+|[^\W_]+")


@dataclass(frozen=True)
class WordMatches:
    """The best matches by words."""

    ranked: list[tuple[int, float]]
    """(number of the text, BM25), best first."""

    complete: bool
    """False where there were more than `MAX_RANKED` matches."""

    left_out: tuple[str, ...]
    """Words that are too common to tell anything."""


def parse_terms(text: str) -> list[str]:
    """The words of a query as FTS5 strings; runs of Chinese characters become phrases.

    Raises:
        ConfigError: there is none.
    """
    words = _TERM.findall(unicodedata.normalize("NFKC", text).lower())
    if not words:
        raise ConfigError(f"nothing to search for in {text[:60]!r}; give words")
    return list(dict.fromkeys(f'"{_spaced(word).strip()}"' for word in words))[:MAX_TERMS]


def _spaced(text: str) -> str:
    """Each Chinese or Japanese character as a word, since those scripts have no spaces."""
    return re.sub(_CJK, lambda match: f" {match.group()} ", text)


class WordIndex:
    """The texts of one catalog, ready to be searched by their words."""

    def __init__(self, connection: sqlite3.Connection, n_texts: int) -> None:
        self._db = connection
        self._n = n_texts
        self._frequencies: dict[str, int] = {}

    @classmethod
    def of(cls, db: Db, path: Path, n_texts: int) -> "WordIndex":
        """The index of the `n_texts` numbered texts of an open catalog, from `path`, or built and put there.

        A path that cannot be written to is no fault: the index is then held in memory.
        """
        try:
            if not path.is_file():
                with whole_file(path) as partial, closing(sqlite3.connect(partial)) as connection:
                    _fill(connection, searched_texts(db, 32_768))
            # One index serves readers in several threads one after the other, as the viewer does.
            connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, check_same_thread=False)
            connection.execute("SELECT 1 FROM text_docsize LIMIT 1")
        except (DataError, sqlite3.Error):
            connection = sqlite3.connect(":memory:", check_same_thread=False)
            _fill(connection, searched_texts(db, 32_768))
        return cls(connection, n_texts)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def nearest(self, terms: list[str], limit: int, allowed: NDArray[np.bool_] | None) -> WordMatches:
        """The best `limit` texts: those with all of the terms, then those with some.

        Args:
            terms: As `parse_terms` gives them.
            limit: At most so many.
            allowed: Whether each text may be found; all may where None.
        """
        used = [t for t in terms if self._n < 1000 or self._frequency(t) <= COMMON_SHARE * self._n] or terms
        ranked, complete = self._ranked(" AND ".join(used), limit, allowed)
        if len(ranked) < limit and len(used) > 1:
            seen = {number for number, _ in ranked}
            some, complete = self._ranked(" OR ".join(used), limit, allowed)
            ranked = (ranked + [match for match in some if match[0] not in seen])[:limit]
        return WordMatches(ranked, complete, tuple(term.strip('"') for term in terms if term not in used))

    def _ranked(
        self, query: str, limit: int, allowed: NDArray[np.bool_] | None
    ) -> tuple[list[tuple[int, float]], bool]:
        """The best `limit` of the matches that are ranked, and whether that is all of them."""
        hits = self._db.execute(
            "SELECT id, -score, count(*) OVER () FROM ("
            " SELECT rowid - 1 AS id, bm25(text) AS score FROM text WHERE text MATCH ? LIMIT ?)"
            " ORDER BY score, id LIMIT ?",
            [query, MAX_RANKED + 1, limit if allowed is None else -1],
        ).fetchall()
        ranked = [(number, score) for number, score, _ in hits if allowed is None or allowed[number]]
        return ranked[:limit], not hits or hits[0][2] <= MAX_RANKED

    def _frequency(self, term: str) -> int:
        """Explanations with a term, counted up to the share that makes it a common one."""
        if term not in self._frequencies:
            enough = int(COMMON_SHARE * self._n) + 1
            (n,) = self._db.execute(
                "SELECT count(*) FROM (SELECT 1 FROM text WHERE text MATCH ? LIMIT ?)", [term, enough]
            ).fetchone()
            self._frequencies[term] = int(n)
        return self._frequencies[term]


def _fill(connection: sqlite3.Connection, texts: Iterable[list[str]]) -> None:
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute(
        "CREATE VIRTUAL TABLE text USING fts5(words, content='', tokenize='porter unicode61 remove_diacritics 2')"
    )
    start = 1
    for batch in texts:
        connection.executemany(
            "INSERT INTO text (rowid, words) VALUES (?, ?)",
            [(number, _spaced(text)) for number, text in enumerate(batch, start)],
        )
        start += len(batch)
    connection.execute("INSERT INTO text (text) VALUES ('optimize')")
    connection.commit()

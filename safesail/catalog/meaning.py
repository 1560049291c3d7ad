"""Search by meaning: vectors of explanations in a file beside other caches, and the nearest to a query.

The file holds vectors only and is named by the texts and the model that it was made from, so a changed
explanation makes a new one. Masked and empty explanations have none.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float, UInt16, UInt64
from numpy.typing import NDArray

from safesail.catalog.matches import MAX_RANKED, Matches, fuse, parse_terms
from safesail.catalog.search import Index
from safesail.resources import cache_dir
from safesail.store.connection import Db
from safesail.store.search import indexed_texts, text_count, text_places, texts_digest

MIN_LIKENESS = 0.2
"""Cosine below which a text is not like the query: pairs of texts drawn at random lie near 0.05, few above this."""

EXACT = 50_000
"""Up to so many vectors are all compared; of more, those whose signs agree best with the query's."""

CANDIDATES = 3_000
"""Vectors that are compared exactly where their signs chose them, at least."""

_BLOCK = 1 << 15
"""Vectors whose signs are compared at once: few enough that what is in between stays in the processor's cache."""

_BATCH = 512


class Embedder(Protocol):
    """What makes vectors of texts; its packages are no business of the catalog's."""

    @property
    def name(self) -> str:
        """Identity of the model: vectors of two must not be mixed. Fit for a file's name."""
        ...

    @property
    def d_vector(self) -> int:
        """Numbers of a vector."""
        ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """A vector of length 1 a text."""
        ...


@dataclass(frozen=True)
class VectorFile:
    """Where the vectors of a catalog's texts are kept, or are to be."""

    path: Path
    n: int
    """Texts."""

    @classmethod
    def of(cls, db: Db, model: str, folder: Path | None = None) -> "VectorFile":
        """The file for the texts of an open catalog.

        Args:
            db: An open store.
            model: Identity of the model.
            folder: Where vectors are kept; the user's cache where None.
        """
        folder = folder or cache_dir() / "search"
        return cls(folder / f"{texts_digest(db)}.{model}.npy", text_count(db))

    @property
    def exists(self) -> bool:
        """Whether it was made."""
        return self.path.is_file()

    def read(self) -> Float[np.ndarray, "n d_vector"] | None:
        """The vectors, float16, mapped; None where there are none or they are damaged."""
        try:
            found = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        sound = found.ndim == 2 and len(found) == self.n and found.dtype == np.float16
        return found if sound else None


class BothIndex:
    """By words and by meaning, fused."""

    method = "by words and meaning"

    def __init__(self, words: Index, meaning: Index) -> None:
        self._words, self._meaning = words, meaning

    def matches(self, text: str, limit: int) -> Matches:
        """The best of both: a feature that both find stands before one that only one finds.

        Raises:
            ConfigError: `text` holds no word.
        """
        # Deeper than the answer: what is tenth in both belongs before what is first in one.
        depth = min(MAX_RANKED, limit + 100)
        # At the same time: both spend theirs outside Python. SQLite stays in the thread that opened it.
        with ThreadPoolExecutor(1) as pool:
            meant = pool.submit(self._meaning.matches, text, depth)
            found = self._words.matches(text, depth)
            return fuse(found, meant.result(), limit)


class VectorIndex:
    """The vectors of one catalog, ready to be searched."""

    method = "by meaning"

    def __init__(
        self,
        embedder: Embedder,
        vectors: Float[np.ndarray, "n d_vector"],
        places: tuple[NDArray[np.object_], NDArray[np.int32]],
    ) -> None:
        self._embedder = embedder
        self._vectors = vectors
        self._places = places
        self._exact = np.asarray(vectors, dtype=np.float32) if len(vectors) <= EXACT else None
        self._signs = _signs(vectors) if self._exact is None else None

    @classmethod
    def of(
        cls,
        db: Db,
        embedder: Embedder,
        folder: Path | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> "VectorIndex":
        """The index of an open catalog, from the cache, or made and put there.

        Args:
            db: An open store.
            embedder: Makes the vectors, of texts now and of queries later.
            folder: As for `VectorFile`. One that cannot be written to is no fault.
            progress: Told of every batch how many texts it had.
        """
        file = VectorFile.of(db, embedder.name, folder)
        vectors = file.read()
        if vectors is None:
            vectors = _embedded(db, embedder, file, progress)
        return cls(embedder, vectors, text_places(db))

    def matches(self, text: str, limit: int) -> Matches:
        """Features whose explanations are nearest to `text` in meaning.

        Raises:
            ConfigError: `text` holds no word.
        """
        parse_terms(text)  # the same texts are refused as by words
        query = self._embedder.embed([text])[0]
        rows, likeness = self._nearest(query, limit)
        sae_ids, features = self._places
        found = [
            (str(sae_ids[row]), int(features[row]), float(value))
            for row, value in zip(rows.tolist(), likeness.tolist(), strict=True)
        ]
        return Matches(found, len(found) + (len(found) == limit), ())

    def _nearest(
        self, query: NDArray[np.float32], limit: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows and cosines of the best `limit` at or above `MIN_LIKENESS`, best first; ties by row."""
        if self._exact is not None:
            rows = np.arange(len(self._exact))
            likeness = self._exact @ query
        else:
            rows = self._candidates(query, max(CANDIDATES, 2 * limit))
            likeness = np.asarray(self._vectors[rows], dtype=np.float32) @ query
        # Rounded: a product's last digit may depend on how many rows it had.
        likeness = np.round(likeness, 5)
        order = np.lexsort((rows, -likeness))[:limit]
        order = order[likeness[order] >= MIN_LIKENESS]
        return rows[order], likeness[order]

    def _candidates(self, query: NDArray[np.float32], n: int) -> NDArray[np.int64]:
        """Rows whose signs agree best with the query's: `n`, and those that agree as well as the last of them."""
        assert self._signs is not None
        bits = _pack(query[None])[0]
        differing = np.zeros(self._signs.shape[1], dtype=np.uint16)
        # Two at a time: numpy leaves Python's lock while it counts.
        middle = len(differing) // 2
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(_count_differing, self._signs[:, :middle], bits, differing[:middle])
            second = _count_differing(self._signs[:, middle:], bits, differing[middle:])
            cumulative = np.cumsum(first.result() + second)
        return np.flatnonzero(differing <= np.searchsorted(cumulative, min(n, len(differing))))


def _count_differing(
    signs: UInt64[np.ndarray, "words n"],
    bits: UInt64[np.ndarray, " words"],
    differing: UInt16[np.ndarray, " n"],
) -> NDArray[np.int64]:
    """Add to `differing` how many signs of each row are not the query's; how many rows differ by each number."""
    rows = np.zeros(64 * len(bits) + 1, dtype=np.int64)
    words = np.empty(_BLOCK, dtype=np.uint64)
    counts = np.empty(_BLOCK, dtype=np.uint8)
    for start in range(0, len(differing), _BLOCK):
        part = differing[start : start + _BLOCK]
        for column, word in zip(signs, bits, strict=True):
            np.bitwise_xor(column[start : start + len(part)], word, out=words[: len(part)])
            np.bitwise_count(words[: len(part)], out=counts[: len(part)])
            part += counts[: len(part)]
        rows += np.bincount(part, minlength=len(rows))
    return rows


def _embedded(
    db: Db, embedder: Embedder, file: VectorFile, progress: Callable[[int], object] | None
) -> Float[np.ndarray, "n d_vector"]:
    """Make the vectors, straight into the file: a million need not fit into memory."""
    partial = file.path.with_name(f"{file.path.name}.{os.getpid()}.partial")
    shape = (file.n, embedder.d_vector)
    try:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        vectors = (
            np.lib.format.open_memmap(partial, "w+", np.float16, shape)
            if file.n
            else np.zeros(shape, np.float16)
        )
    except OSError:
        vectors = np.zeros(shape, np.float16)
    try:
        start = 0
        for texts in _texts(db):
            vectors[start : start + len(texts)] = embedder.embed(texts)
            start += len(texts)
            if progress is not None:
                progress(len(texts))
        if isinstance(vectors, np.memmap):
            vectors.flush()
            partial.replace(file.path)
    finally:
        if isinstance(vectors, np.memmap):
            partial.unlink(missing_ok=True)
    return vectors


def _texts(db: Db) -> Iterator[list[str]]:
    for batch in indexed_texts(db):
        for start in range(0, len(batch), _BATCH):
            yield [one.text for one in batch[start : start + _BATCH]]


def _signs(vectors: Float[np.ndarray, "n d_vector"]) -> UInt64[np.ndarray, "words n"]:
    parts = [_pack(vectors[start : start + 65_536]) for start in range(0, len(vectors), 65_536)]
    return np.ascontiguousarray(np.concatenate(parts).T)


def _pack(vectors: Float[np.ndarray, "n d_vector"]) -> UInt64[np.ndarray, "n words"]:
    """Whether each number is above 0, 64 to a word."""
    bits = np.packbits(vectors > 0, axis=1)
    padded = np.pad(bits, ((0, 0), (0, -bits.shape[1] % 8)))
    return padded.view(np.uint64)

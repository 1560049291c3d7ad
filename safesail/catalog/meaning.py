"""Search by meaning: vectors of explanations in a file beside other caches, and the nearest to a query.

The file holds vectors only and is named by the texts and the model that it was made from, so a changed
explanation makes a new one. Masked and empty explanations have none.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from safesail.errors import DataError
from safesail.files import whole_file
from safesail.store.connection import Db
from safesail.store.search import searched_texts

MIN_COSINE = 0.2
"""Cosine below which a text is not like the query: pairs of texts drawn at random lie near 0.05, few above this."""

EXACT = 50_000
"""Up to so many vectors are all compared in full; of more, those that are nearest in their `N_DIRECTIONS`."""

N_DIRECTIONS = 64
"""Principal directions in which a large catalog's vectors are compared first: a sixth of MiniLM's 384 numbers."""

CANDIDATES = 3_000
"""Vectors that are then compared in full, at least."""

_BATCH = 512
_BLOCK = 65_536


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
        """One vector of length 1 per text."""
        ...


class MeaningIndex:
    """The vectors of one catalog's texts, ready to be searched."""

    def __init__(self, embedder: Embedder, vectors: Float[np.ndarray, "n d_vector"]) -> None:
        self._embedder = embedder
        self.vectors = vectors
        self._basis = np.eye(embedder.d_vector, dtype=np.float32)
        if len(vectors) > EXACT:
            self._basis = _principal_directions(vectors)
        self._projected = np.concatenate([block @ self._basis for block in _blocks(vectors)])

    @classmethod
    def of(
        cls,
        db: Db,
        embedder: Embedder,
        path: Path,
        n_texts: int,
        progress: Callable[[int], object] | None = None,
    ) -> "MeaningIndex":
        """The index of the `n_texts` numbered texts of an open catalog, from `path`, or made and put there.

        Args:
            db: An open catalog after `number_texts`.
            embedder: Makes the vectors, of texts now and of queries later.
            path: A file; one that cannot be written to is no fault.
            n_texts: How many texts there are.
            progress: Told of every batch how many texts it had.
        """
        shape = (n_texts, embedder.d_vector)
        vectors = read_vectors(path, shape)
        if vectors is None:
            try:
                _write_vectors(path, _embedded(db, embedder, progress), shape)
                vectors = read_vectors(path, shape)
            except DataError:  # no room for a file
                pass
        if vectors is None:
            parts = [np.empty((0, shape[1]), np.float16), *_embedded(db, embedder, progress)]
            vectors = np.concatenate(parts)
        return cls(embedder, vectors)

    def nearest(self, text: str, limit: int, allowed: NDArray[np.bool_] | None) -> list[tuple[int, float]]:
        """(number of the text, cosine) of the best `limit` at or above `MIN_COSINE`, best first; ties by number.

        Args:
            text: What is asked for.
            limit: At most so many.
            allowed: Whether each text may be found; all may where None.
        """
        query = self._embedder.embed([text])[0]
        likeness = self._projected @ (query @ self._basis)
        if allowed is not None:
            likeness[~allowed] = -np.inf
        n = max(CANDIDATES, 2 * limit)
        numbers = np.argpartition(-likeness, n)[:n] if len(likeness) > n else np.arange(len(likeness))
        numbers = np.sort(numbers[likeness[numbers] > -np.inf])
        # Rounded: a product's last digit may depend on how many rows it had.
        cosines = np.round(np.asarray(self.vectors[numbers], dtype=np.float32) @ query, 5)
        order = np.argsort(-cosines, kind="stable")[:limit]
        return [(int(numbers[i]), float(cosines[i])) for i in order if cosines[i] >= MIN_COSINE]


def read_vectors(path: Path, shape: tuple[int, int]) -> Float[np.ndarray, "n d_vector"] | None:
    """The vectors at `path`, float16, mapped; None where there are none, or others than asked for."""
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return vectors if vectors.shape == shape and vectors.dtype == np.float16 else None


def _write_vectors(path: Path, batches: Iterator[NDArray[np.float16]], shape: tuple[int, int]) -> None:
    """Straight into the file: a million vectors need not fit into memory."""
    with whole_file(path) as partial, partial.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f2", "fortran_order": False, "shape": shape})
        for batch in batches:
            stream.write(batch.tobytes())


def _embedded(
    db: Db, embedder: Embedder, progress: Callable[[int], object] | None
) -> Iterator[NDArray[np.float16]]:
    for texts in searched_texts(db, _BATCH):
        yield embedder.embed(texts).astype("<f2")
        if progress is not None:
            progress(len(texts))


def _blocks(vectors: Float[np.ndarray, "n d_vector"]) -> Iterator[Float[np.ndarray, "block d_vector"]]:
    """The vectors as float32, in parts: numpy multiplies float16 a hundred times slower."""
    for start in range(0, max(1, len(vectors)), _BLOCK):
        yield np.asarray(vectors[start : start + _BLOCK], dtype=np.float32)


def _principal_directions(vectors: Float[np.ndarray, "n d_vector"]) -> Float[np.ndarray, "d_vector kept"]:
    """The directions in which a sample of the vectors varies most."""
    sample = np.asarray(vectors[:: max(1, len(vectors) // EXACT)], dtype=np.float32)
    _, directions = np.linalg.eigh(sample.T @ sample)
    return np.ascontiguousarray(directions[:, -N_DIRECTIONS:])

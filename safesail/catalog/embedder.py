"""Where search meets the model behind it: the catalog itself runs without torch."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from safesail.catalog.meaning import BothIndex, VectorFile, VectorIndex
from safesail.catalog.search import Index, SearchIndex
from safesail.store.connection import Db
from safesail.subject.minilm import D_VECTOR, NAME, MiniLM, is_installed, load_minilm, model_digest

By = Literal["words", "meaning", "both"]

MADE_UNASKED = 500
"""Explanations whose vectors are made without being asked for: some seconds' work."""

_PER_SECOND = 40
"""Explanations that one core turns into vectors, about."""


class MiniLMEmbedder:
    """MiniLM, loaded when the first vector is needed."""

    d_vector = D_VECTOR

    def __init__(self) -> None:
        self.name = f"{NAME}-{model_digest()}"
        self._model: MiniLM | None = None

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """A vector of length 1 a text."""
        if self._model is None:
            self._model = load_minilm()
        return self._model.embed(texts)


def open_index(db: Db, by: By | None, *, quiet: bool) -> tuple[Index, str | None]:
    """The index to search an open catalog with, and in one line why it is not a better one.

    Args:
        db: An open store.
        by: None: both where the extra is here and vectors are, or are soon made; else words.
        quiet: No progress on stderr.

    Raises:
        ConfigError: meaning was asked for and the extra is not here.
    """
    if by == "words":
        return SearchIndex.of(db), None
    if by is None and not is_installed():
        return SearchIndex.of(db), (
            "searched by words only; by meaning needs the extra: pip install 'safesail[embedding]'"
        )
    embedder = MiniLMEmbedder()
    file = VectorFile.of(db, embedder.name)
    if by is None and not file.exists and file.n > MADE_UNASKED:
        return SearchIndex.of(db), (
            f"searched by words only; {file.n:,} explanations have no vectors yet: --by both makes them, once, "
            f"in about {max(1, round(file.n / _PER_SECOND / 60))} minutes"
        )
    with tqdm(total=file.n, desc="vectors", unit="text", disable=quiet or file.exists) as bar:
        meaning = VectorIndex.of(db, embedder, progress=bar.update)
    return (meaning if by == "meaning" else BothIndex(SearchIndex.of(db), meaning)), None

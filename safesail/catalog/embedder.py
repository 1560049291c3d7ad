"""Where search meets the model behind it: the catalog itself runs without torch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from safesail.catalog.search import By, SearchIndex
from safesail.store.connection import Db
from safesail.subject.minilm import D_VECTOR, NAME, Embed, is_installed, load_embed, model_digest

MADE_UNASKED = 500
"""Explanations whose vectors are made without being asked for: some seconds' work."""

_PER_SECOND = 40
"""Explanations that one core turns into vectors, about."""


class MiniLMEmbedder:
    """MiniLM, loaded when the first vector is needed."""

    d_vector = D_VECTOR

    def __init__(self) -> None:
        self.name = f"{NAME}-{model_digest()}"
        self._embed: Embed | None = None

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """A vector of length 1 per text."""
        if self._embed is None:
            self._embed = load_embed()
        return self._embed(texts)


def open_index(db: Db, by: By | None, *, quiet: bool) -> tuple[SearchIndex, str | None]:
    """The index to search an open catalog with, and in one line why it is not a better one.

    Args:
        db: An open catalog.
        by: None: both where the extra is here and vectors are, or are soon made; else words.
        quiet: No progress on stderr.

    Raises:
        ConfigError: meaning was asked for and the extra is not here.
    """
    index = SearchIndex(db)
    if by == "words":
        return index.add_words(), None
    if by is None and not is_installed():
        return index.add_words(), (
            "searched by words only; by meaning needs the extra: pip install 'safesail[embedding]'"
        )
    embedder = MiniLMEmbedder()
    made = index.has_vectors(embedder)
    if by is None and not made and index.n_texts > MADE_UNASKED:
        return index.add_words(), (
            f"searched by words only; {index.n_texts:,} explanations have no vectors yet: --by both makes them, "
            f"once, in about {max(1, round(index.n_texts / _PER_SECOND / 60))} minutes"
        )
    with tqdm(total=index.n_texts, desc="vectors", unit="text", disable=quiet or made) as bar:
        index.add_meaning(embedder, bar.update)
    return (index if by == "meaning" else index.add_words()), None

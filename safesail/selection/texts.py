"""What features do on the texts of pairs, as far as readouts need it: largest activations above zero, in columns."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from jaxtyping import Float32, Int
from numpy.typing import NDArray

from safesail.metrics.readout import Maxima
from safesail.selection.batches import TokenPair


@dataclass(frozen=True)
class PairTexts:
    """Texts q+, q-, q+, q-, ... of one concept's pairs, in the order in which they were run."""

    d_sae: int
    starts: Int[np.ndarray, " n_texts_plus_one"]
    """Where each text's activations begin."""

    feature: Int[np.ndarray, " nnz"]
    value: Float32[np.ndarray, " nnz"]
    priority: NDArray[np.uint64]
    """Per text: a random number that depends on the text alone; the lowest are drawn as negatives."""

    @classmethod
    def of(cls, pairs: Sequence[TokenPair], maxima: Float32[np.ndarray, "n_texts d_sae"]) -> Self:
        """From dense activations of both sides of some pairs."""
        text, feature = np.nonzero(maxima)
        starts = np.searchsorted(text, np.arange(2 * len(pairs) + 1))
        priority = np.array([_priority(side) for pair in pairs for side in (pair.pos, pair.neg)], np.uint64)
        return cls(maxima.shape[1], starts, feature.astype(np.int32), maxima[text, feature], priority)

    @classmethod
    def join(cls, parts: Sequence[Self], d_sae: int) -> Self:
        """Texts of several batches, in their order."""
        sizes = np.concatenate([np.zeros(1, np.int64), *(np.diff(part.starts) for part in parts)])
        none = cls(
            d_sae,
            np.zeros(1, np.int64),
            np.zeros(0, np.int32),
            np.zeros(0, np.float32),
            np.zeros(0, np.uint64),
        )
        every = (none, *parts)
        return cls(
            d_sae,
            np.cumsum(sizes),
            np.concatenate([part.feature for part in every]),
            np.concatenate([part.value for part in every]),
            np.concatenate([part.priority for part in every]),
        )

    @property
    def n_texts(self) -> int:
        """Twice the pairs."""
        return self.priority.size

    def take(self, texts: Int[np.ndarray, " n_taken"]) -> Maxima:
        """Some texts, in this order."""
        sizes = np.diff(self.starts)[texts]
        number = np.repeat(np.arange(texts.size), sizes)
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        at = np.repeat(self.starts[:-1][texts], sizes) + within
        return Maxima(texts.size, self.d_sae, number, self.feature[at], self.value[at])

    def sides(self) -> tuple[Maxima, Maxima]:
        """All q+, and their twins in the same order."""
        return self.take(np.arange(0, self.n_texts, 2)), self.take(np.arange(1, self.n_texts, 2))

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Its columns, to be kept."""
        return {name: getattr(self, name) for name in ("starts", "feature", "value", "priority")}


def _priority(tokens: NDArray[np.int32]) -> int:
    return int.from_bytes(hashlib.blake2b(tokens.tobytes(), digest_size=8).digest(), "big")

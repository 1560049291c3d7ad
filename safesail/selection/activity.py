"""When a feature counts as firing on a text: above zero, or above a quantile of its own activations."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float32, Int

from safesail.metrics.quantiles import bin_of, bin_start

_BIN_BITS = 4
"""16 bins an octave."""

_LOWEST, _OCTAVES = np.float32(2.0**-16), 32
"""Smaller activations share the lowest bin, those 32 octaves above it the highest."""

_N_BINS = _OCTAVES << _BIN_BITS
_FIRST = int(bin_of(np.array([_LOWEST]), _BIN_BITS)[0])
_EDGES = bin_start(np.arange(_FIRST, _FIRST + _N_BINS + 1, dtype=np.int32), _BIN_BITS)


def text_maxima(
    text: Int[np.ndarray, " nnz"],
    feature: Int[np.ndarray, " nnz"],
    value: Float32[np.ndarray, " nnz"],
    n_texts: int,
    d_sae: int,
) -> Float32[np.ndarray, "n_texts d_sae"]:
    """Each feature's largest activation on each text of a batch, 0 where it is silent.

    Args:
        text: Which text of the batch the activation's token belongs to.
        feature: Which feature.
        value: Its activation.
        n_texts: Texts in the batch.
        d_sae: Features of the SAE.
    """
    maxima = np.zeros(n_texts * d_sae, np.float32)
    np.maximum.at(maxima, text.astype(np.int64) * d_sae + feature, value)
    return maxima.reshape(n_texts, d_sae)


@dataclass
class ActivityHistogram:
    """Counts of every feature's positive activations; its size depends on the SAE alone, not on the texts."""

    d_sae: int
    counts: Int[np.ndarray, "d_sae n_bins"] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros((self.d_sae, _N_BINS), np.int32)

    def add(self, feature: Int[np.ndarray, " nnz"], value: Float32[np.ndarray, " nnz"]) -> None:
        """Count more activations; those that are not positive do not count."""
        active = value > 0
        bins = np.clip(bin_of(value[active], _BIN_BITS) - _FIRST, 0, _N_BINS - 1)
        np.add.at(self.counts, (feature[active], bins), 1)

    def quantile(self, q: float) -> Float[np.ndarray, " d_sae"]:
        """Quantile `q` of each feature's activations, linear inside its bin; 0 for a feature that never fired.

        Off by at most one bin, 1/16 of its value.
        """
        total = self.counts.sum(axis=1)
        reached = np.cumsum(self.counts, axis=1)
        rank = q * np.maximum(total - 1, 0)
        bins = np.argmax(reached > rank[:, None], axis=1)
        features = np.arange(self.d_sae)
        inside = self.counts[features, bins]
        share = (rank - (reached[features, bins] - inside) + 0.5) / np.maximum(inside, 1)
        values = _EDGES[bins] + share * (_EDGES[bins + 1] - _EDGES[bins])
        return np.where(total > 0, values, 0.0)

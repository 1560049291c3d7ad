"""When a feature counts as firing on a text: above zero, or above a quantile of its own activations."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float32, Int

_MANTISSA_BITS = 4
_SHIFT = 23 - _MANTISSA_BITS
_LOWEST = 2.0**-16
"""Activations below this share the lowest bin."""

_OCTAVES = 32
_N_BINS = _OCTAVES << _MANTISSA_BITS
_FIRST = int(np.float32(_LOWEST).view(np.int32)) >> _SHIFT


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
    """Counts of every feature's positive activations in bins 1/16 wide relative to their value.

    Its size depends on the SAE alone, however many texts are added.
    """

    d_sae: int
    counts: Int[np.ndarray, "d_sae n_bins"] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros((self.d_sae, _N_BINS), np.int32)

    def add(self, feature: Int[np.ndarray, " nnz"], value: Float32[np.ndarray, " nnz"]) -> None:
        """Count more activations; those that are not positive do not count."""
        active = value > 0
        bins = (np.ascontiguousarray(value[active]).view(np.int32) >> _SHIFT) - _FIRST
        cell = feature[active].astype(np.int64) * _N_BINS + np.clip(bins, 0, _N_BINS - 1)
        np.add.at(self.counts.reshape(-1), cell, 1)

    def quantile(self, q: float) -> Float[np.ndarray, " d_sae"]:
        """Quantile `q` of each feature's activations, linear inside its bin; 0 for a feature that never fired.

        Off by at most one bin, 1/16 of its value.
        """
        total = self.counts.sum(axis=1)
        reached = np.cumsum(self.counts, axis=1)
        wanted = q * np.maximum(total - 1, 0)
        bin_ = np.argmax(reached > wanted[:, None], axis=1)
        inside = self.counts[np.arange(self.d_sae), bin_]
        before = reached[np.arange(self.d_sae), bin_] - inside
        share = (wanted - before + 0.5) / np.maximum(inside, 1)
        edges = ((np.arange(_N_BINS + 1) + _FIRST) << _SHIFT).astype(np.int32).view(np.float32)
        values = edges[bin_] + share * (edges[bin_ + 1] - edges[bin_])
        return np.where(total > 0, values, 0.0)

"""Histograms of activations: one row per feature and bin that occur, sums of two are those of both."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int
from numpy.typing import NDArray

from safesail.metrics.grouped import sort_pairs, starts
from safesail.metrics.quantiles import bin_start
from safesail.store.sections import SectionFile, SectionWriter

BIN_BITS = 6
"""Bits of the mantissa that a bin keeps: 64 bins per octave, a quantile's relative error at most 1/128."""

_BIN = 9 + BIN_BITS
"""Bits of a bin: sign and exponent are 9."""

_BIN_MASK = np.uint64((1 << _BIN) - 1)
_COLUMNS = ("key", "n", "feature", "total", "maximum")


@dataclass(frozen=True)
class Histogram:
    """Of one SAE's activations greater than zero."""

    key: NDArray[np.uint64]
    """feature * 2^15 + bin, ascending; a bin is the leading 15 bits of the float32."""

    n: NDArray[np.int64]
    """Activations, per key."""

    feature: NDArray[np.int32]
    """Those that have any, ascending."""

    total: NDArray[np.float64]
    """Their sum, per feature."""

    maximum: NDArray[np.float32]
    """The largest, per feature."""

    @classmethod
    def of(cls, feature: Int[np.ndarray, " n"], value: Float32[np.ndarray, " n"], d_sae: int) -> "Histogram":
        """Of activations in any order, which leaves no trace; `feature` is below `d_sae`."""
        features, values = sort_pairs(feature.astype(np.uint64), value, d_sae)
        first = starts(features)
        ends = np.append(first[1:], len(features))[: len(first)]
        features <<= np.uint64(_BIN)
        features |= (values.view(np.uint32) >> np.uint32(32 - _BIN)).astype(np.uint64)
        bins = starts(features)
        return cls(
            features[bins],
            np.diff(np.append(bins, len(features))) if len(bins) else np.zeros(0, np.int64),
            (features[first] >> np.uint64(_BIN)).astype(np.int32),
            np.add.reduceat(values.astype(np.float64), first) if len(first) else np.zeros(0),
            values[ends - 1],
        )

    @classmethod
    def add_up(cls, parts: Sequence["Histogram"]) -> "Histogram":
        """All in one; totals are added in the order given."""
        key, n = _summed([p.key for p in parts], [p.n for p in parts])
        feature, total = _summed([p.feature for p in parts], [p.total for p in parts])
        maximum = np.zeros(len(feature), np.float32)
        for part in parts:
            own = np.searchsorted(feature, part.feature)
            maximum[own] = np.maximum(maximum[own], part.maximum)
        return cls(key, n, feature, total, maximum)

    def between(self, first: int, stop: int) -> "Histogram":
        """Of the features [first, stop)."""
        low, high = np.searchsorted(self.key, np.array([first, stop], np.uint64) << np.uint64(_BIN))
        start, end = np.searchsorted(self.feature, [first, stop])
        return Histogram(
            self.key[low:high], self.n[low:high], self.feature[start:end], self.total[start:end],
            self.maximum[start:end],
        )  # fmt: skip

    @property
    def key_feature(self) -> NDArray[np.int64]:
        """Feature of every key."""
        return (self.key >> np.uint64(_BIN)).astype(np.int64)

    @property
    def bin(self) -> NDArray[np.int32]:
        """Bin of every key."""
        return (self.key & _BIN_MASK).astype(np.int32)

    @property
    def first_keys(self) -> NDArray[np.int64]:
        """Where the keys of each feature begin."""
        return np.searchsorted(self.key, self.feature.astype(np.uint64) << np.uint64(_BIN))

    def save(self, file: SectionWriter, name: str) -> None:
        """Write it to a file of sections."""
        for column in _COLUMNS:
            file.add(f"{name}/{column}", getattr(self, column))

    @classmethod
    def load(cls, file: SectionFile, name: str) -> "Histogram":
        """Read one that `save` wrote."""
        return cls(*(file.read(f"{name}/{column}") for column in _COLUMNS))


def bin_middle(bins: NDArray[np.int32]) -> NDArray[np.float32]:
    """Value in the middle of each bin."""
    return bin_start(2 * bins + 1, BIN_BITS + 1)


def quantiles(h: Histogram, shares: Sequence[float]) -> list[NDArray[np.float64]]:
    """Quantiles of every feature of `h.feature`, one array for each share in [0, 1].

    The order statistic at rank ceil(share * (n_active - 1)) is read as the middle of its bin, and is never above the
    maximum.
    """
    if not len(h.key):
        return [np.zeros(0) for _ in shares]
    first = h.first_keys
    cumulative = np.cumsum(h.n)
    before = np.append(0, cumulative)[first]
    active = np.diff(np.append(before, cumulative[-1]))
    measured: list[NDArray[np.float64]] = []
    for share in shares:
        rank = before + np.ceil(share * (active - 1)).astype(np.int64)
        keys = h.key[np.searchsorted(cumulative, rank, side="right")]
        middles = bin_middle((keys & _BIN_MASK).astype(np.int32))
        measured.append(np.minimum(middles.astype(np.float64), h.maximum))
    return measured


def _summed(
    keys: Sequence[NDArray[Any]], columns: Sequence[NDArray[Any]]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Distinct keys, ascending, and the sums of a column over equal ones, in the order given."""
    key = np.concatenate(keys)
    order = np.argsort(key, kind="stable")
    key, column = key[order], np.concatenate(columns)[order]
    first = starts(key)
    return (key[first], np.add.reduceat(column, first)) if len(first) else (key, column)

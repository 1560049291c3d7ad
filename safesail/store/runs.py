"""Nonzeros on their way: per shard and SAE a run sorted by feature and token, and runs of all shards merged."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int
from numpy.typing import NDArray

from safesail.metrics.grouped import sort_pairs, starts
from safesail.store.ranges import runs as ranges_of
from safesail.store.sections import SectionFile, SectionWriter

ROWS_AT_ONCE = 1_000_000
"""Nonzeros that are merged at once, at least: about 60 bytes of memory each."""

_ROWS_PER_FILE = 1_024
"""Nonzeros that are read of a file at once, at least, on average: opening it takes as long as reading some hundreds."""

_FEATURES_AT_ONCE = 1 << 16
"""Merging sorts by numbers of 16 bits, in a time that does not grow with their order."""

_HALF = np.uint64(32)


@dataclass(frozen=True)
class Run:
    """One SAE's nonzeros of one shard, sorted by feature, then token: 8 bytes each, and 8 per feature that fires."""

    feature: NDArray[np.int32]
    """Those that fire, ascending."""

    count: NDArray[np.int32]
    """Their nonzeros."""

    entry: NDArray[np.uint64]
    """Per nonzero: its token slot in the shard, and below it the 32 bits of its value."""

    @classmethod
    def of(
        cls,
        feature: Int[np.ndarray, " n"],
        slot: Int[np.ndarray, " n"],
        value: Float32[np.ndarray, " n"],
        *,
        d_sae: int,
        n_slots: int,
    ) -> "Run":
        """From nonzeros in any order, which leaves no trace.

        Args:
            feature: Below `d_sae`.
            slot: Token slot in the shard, below `n_slots`.
            value: Greater than zero.
            d_sae: Features of the SAE.
            n_slots: Token slots of the shard.
        """
        bits = max(1, (n_slots - 1).bit_length())
        key = feature.astype(np.uint64) << np.uint64(bits)
        key |= slot.astype(np.uint64)
        key, values = sort_pairs(key, value, d_sae << bits)
        entry = (key & np.uint64((1 << bits) - 1)) << _HALF
        entry |= values.view(np.uint32)
        key >>= np.uint64(bits)
        first = starts(key)
        return cls(
            key[first].astype(np.int32),
            np.diff(np.append(first, len(key)))[: len(first)].astype(np.int32),
            entry,
        )

    @property
    def slot(self) -> NDArray[np.int64]:
        """Token slot in the shard, per nonzero."""
        return (self.entry >> _HALF).astype(np.int64)

    @property
    def value(self) -> NDArray[np.float32]:
        """Per nonzero."""
        return self.entry.astype(np.uint32).view(np.float32)

    @property
    def features(self) -> NDArray[np.int32]:
        """Per nonzero."""
        return np.repeat(self.feature, self.count)

    def save(self, file: SectionWriter, name: str) -> None:
        """Write it to a file of sections."""
        file.add(f"{name}/index", np.stack([self.feature, self.count], axis=1).reshape(-1))
        file.add(f"{name}/entry", self.entry)


@dataclass(frozen=True)
class Merged:
    """One SAE's nonzeros of a whole harvest, of some features; sorted by feature, then token."""

    first: int
    stop: int
    """The features [first, stop)."""

    feature: NDArray[np.int32]
    token: NDArray[np.int64]
    value: NDArray[np.float32]


@dataclass(frozen=True)
class _Cuts:
    """Where the ranges begin in one file: in its features, and in its nonzeros."""

    index: NDArray[np.int64]
    entry: NDArray[np.int64]


class RunReader:
    """Merges one SAE's runs of all shards, a range of features at a time; reads each nonzero once."""

    def __init__(self, files: Sequence[SectionFile], name: str, d_sae: int) -> None:
        """`files` in the order of their shards; their `about` names the first slot of each."""
        self._files, self._name = files, name
        counts = np.zeros(d_sae, np.int64)
        for file in files:
            feature, count = self._index(file)
            counts[feature] += count
        self.ranges = _ranges(counts, max(ROWS_AT_ONCE, _ROWS_PER_FILE * len(files)))
        edges = np.array([*(first for first, _ in self.ranges), d_sae])
        self._cuts = [self._cut(file, edges) for file in files]

    def __iter__(self) -> Iterator[Merged]:
        return (self.read(number) for number in range(len(self.ranges)))

    def read(self, number: int) -> Merged:
        """The nonzeros of one of the `ranges`.

        Raises:
            DataError: a file is gone.
        """
        first, stop = self.ranges[number]
        parts = [self._part(file, cuts, number) for file, cuts in zip(self._files, self._cuts, strict=True)]
        local = np.concatenate([np.repeat(f - first, c).astype(np.uint16) for f, c, _, _ in parts])
        token = np.concatenate([t for _, _, t, _ in parts])
        value = np.concatenate([v for _, _, _, v in parts])
        if len(parts) > 1:
            # Stable: of one feature, tokens of earlier shards come first, and in a shard they are in order.
            order = np.argsort(local, kind="stable")
            local, token, value = local[order], token[order], value[order]
        return Merged(first, stop, local.astype(np.int32) + np.int32(first), token, value)

    def _index(
        self, file: SectionFile, first: int = 0, stop: int | None = None
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        pairs = file.read(f"{self._name}/index", 2 * first, None if stop is None else 2 * stop).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]

    def _cut(self, file: SectionFile, edges: NDArray[np.int64]) -> _Cuts:
        feature, count = self._index(file)
        index = np.searchsorted(feature, edges)
        return _Cuts(index, np.append(0, np.cumsum(count, dtype=np.int64))[index])

    def _part(
        self, file: SectionFile, cuts: _Cuts, number: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64], NDArray[np.float32]]:
        feature, count = self._index(file, int(cuts.index[number]), int(cuts.index[number + 1]))
        entry = file.read(f"{self._name}/entry", int(cuts.entry[number]), int(cuts.entry[number + 1]))
        token = (entry >> _HALF).astype(np.int64)
        token += int(file.about["first_slot"])
        return feature, count, token, entry.astype(np.uint32).view(np.float32)


def _ranges(counts: NDArray[np.int64], limit: int) -> list[tuple[int, int]]:
    """All features in ranges of at most `limit` nonzeros, or of one feature, and of at most 65,536 features."""
    return [
        (first, min(first + _FEATURES_AT_ONCE, stop))
        for start, stop in ranges_of(counts.tolist(), limit)
        for first in range(start, stop, _FEATURES_AT_ONCE)
    ]

"""Token strings on which a feature fires most, over a whole harvest: streamed, so that memory does not grow with it."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int, UInt64
from numpy.typing import NDArray

from safesail.errors import DataError
from safesail.metrics.grouped import sort_pairs, starts
from safesail.store.arrow import ArrowBatch
from safesail.store.runs import Merged
from safesail.store.sql import Db, value

N_TOP_TOKENS = 10


@dataclass(frozen=True)
class TokenCodes:
    """The string at each token of a harvest, as a number."""

    strings: Any
    """Arrow array of the different strings, in the order of their characters."""

    rank: UInt64[np.ndarray, " n_strings"]
    """By code: where its string stands in `strings`."""

    codes: Int[np.ndarray, " n_slots"]
    """By window_id * n_ctx + position; a mapped file."""

    @property
    def bits(self) -> int:
        """That hold any rank."""
        return max(1, (len(self.rank) - 1).bit_length())


@contextmanager
def token_codes(db: Db, harvest_key: int, folder: Path) -> Generator[TokenCodes, None, None]:
    """The strings of a harvest, in a file that is gone when the block ends: 4 bytes per token slot.

    Args:
        db: The open store.
        harvest_key: Whose windows.
        folder: Where the file goes; made where it is missing.

    Raises:
        DataError: the disk has no room for it.
    """
    n_ctx = int(value(db, "SELECT n_ctx FROM harvests WHERE harvest_key = ?", [harvest_key]))
    n_windows = int(
        value(db, "SELECT coalesce(max(window_id) + 1, 0) FROM windows WHERE harvest_key = ?", [harvest_key])
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "codes.partial"
    try:
        with path.open("wb") as file:  # a mapped file for which the disk has no room would end the process
            os.posix_fallocate(file.fileno(), 0, 4 * max(1, n_ctx * n_windows))
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}; what is stored so far is kept") from error
    codes = np.memmap(path, np.int32, "r+")
    known: dict[str, int] = {}
    try:
        sql = f"SELECT window_id, tokens FROM windows WHERE harvest_key = {int(harvest_key)}"
        for batch in db.sql(sql).to_arrow_reader(2_048):
            _code(batch, n_ctx, known, codes)
        strings = sorted(known)
        rank = np.empty(len(strings), np.uint64)
        rank[[known[string] for string in strings]] = np.arange(len(strings), dtype=np.uint64)
        yield TokenCodes(pa.array(strings, pa.string()), rank, codes)
    finally:
        path.unlink(missing_ok=True)


def top_tokens(merged: Merged, known: TokenCodes) -> Any:
    """Per feature, the strings with the largest summed activation among the kept nonzeros; ties in their order.

    Args:
        merged: All kept nonzeros of a range of features.
        known: The strings of the harvest.

    Returns:
        Arrow lists, one per feature of the range; null where nothing is kept.
    """
    size, bits = merged.stop - merged.first, known.bits
    key = (merged.feature - np.int32(merged.first)).astype(np.uint64)
    key <<= np.uint64(bits)
    key |= known.rank[known.codes[merged.token]]
    keys, values = sort_pairs(key, merged.value, size << bits)
    groups = starts(keys)
    masses = np.add.reduceat(values.astype(np.float64), groups) if len(groups) else np.zeros(0)
    feature, rank = _strongest(keys[groups], masses.astype(np.float32), size << bits, bits)
    n_chosen = np.bincount(feature, minlength=size)
    offsets = pa.array(np.append(0, np.cumsum(n_chosen)).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, known.strings.take(pa.array(rank)), mask=pa.array(n_chosen == 0))


def _strongest(
    key: UInt64[np.ndarray, " n"], mass: Float32[np.ndarray, " n"], largest: int, bits: int
) -> tuple[Int[np.ndarray, " n_chosen"], Int[np.ndarray, " n_chosen"]]:
    """Features and ranks of strings of the largest masses of each feature, largest first.

    Args:
        key: Feature, and below it in `bits` bits the rank of the string; ascending.
        mass: Rounded to float32, so that the order in which the sum was made leaves no trace.
        largest: No key is larger.
        bits: Of a rank.
    """
    feature = (key >> np.uint64(bits)).astype(np.int64)
    first = starts(feature)
    low = np.uint64((1 << bits) - 1)
    if largest >> 33:
        ordered = key[np.lexsort((key, -mass, feature))] & low
    else:  # 31 bits are free between them
        packed = (key & ~low) << np.uint64(31)
        packed |= np.uint64(0x7FFFFFFF) - mass.view(np.uint32).astype(np.uint64) << np.uint64(bits)
        packed |= key & low
        packed.sort()
        ordered = packed & low
    position = np.arange(len(feature)) - np.repeat(first, np.diff(np.append(first, len(feature))))
    chosen = position < N_TOP_TOKENS
    return feature[chosen], ordered[chosen].astype(np.int64)


def _code(batch: ArrowBatch, n_ctx: int, known: dict[str, int], codes: NDArray[np.int32]) -> None:
    tokens = batch.column("tokens")
    lengths = np.diff(tokens.offsets.to_numpy())
    encoded = tokens.flatten().dictionary_encode()
    numbers = np.array(
        [known.setdefault(text, len(known)) for text in encoded.dictionary.to_pylist()], np.int32
    )
    if not len(numbers):
        return
    starts = np.repeat(batch.column("window_id").to_numpy() * n_ctx - (np.cumsum(lengths) - lengths), lengths)
    codes[starts + np.arange(len(starts))] = numbers[encoded.indices.to_numpy()]

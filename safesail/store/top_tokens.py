"""Token strings on which a feature fires most, over a whole harvest: streamed, so that memory does not grow with it."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from safesail.errors import DataError
from safesail.store.arrow import ArrowBatch
from safesail.store.ranges import runs
from safesail.store.sql import Db, value

N_TOP_TOKENS = 10
_ROWS_AT_ONCE = 1 << 17
_ROWS_PER_RUN = 1 << 18
"""Nonzeros of features that are counted together: their distinct strings are held at once."""


@dataclass(frozen=True)
class TokenCodes:
    """The string at each token of a harvest, as a number."""

    strings: tuple[str, ...]
    order: Int[np.ndarray, " n_strings"]
    """Rank of each string in the order of their characters."""

    codes: Int[np.ndarray, " n_slots"]
    """Into `strings`, by window_id * n_ctx + position; a mapped file."""


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
        strings = tuple(known)
        order = np.empty(len(strings), np.int64)
        order[sorted(range(len(strings)), key=strings.__getitem__)] = np.arange(len(strings))
        yield TokenCodes(strings, order, codes)
    finally:
        path.unlink(missing_ok=True)


def top_tokens(
    db: Db, sae_key: int, first: int, n_active: NDArray[np.int64], known: TokenCodes
) -> dict[int, list[str]]:
    """Per feature, the strings with the largest summed activation among the kept nonzeros; ties in their order.

    Args:
        db: Store, in which the SAE's activations are sorted.
        sae_key: Of the SAE.
        first: First of the features asked about.
        n_active: Nonzeros of each of them.
        known: The strings of the SAE's harvest.
    """
    best: dict[int, list[str]] = {}
    for start, stop in runs(n_active.tolist(), _ROWS_PER_RUN):
        features, masses = _masses(db, sae_key, (first + start, first + stop), known)
        best |= _best(features, masses, known)
    return best


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


def _masses(
    db: Db, sae_key: int, features: tuple[int, int], known: TokenCodes
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Keys `feature * n_strings + string` that occur, and the summed activation of each."""
    keys, masses = np.zeros(0, np.int64), np.zeros(0)
    sql = (
        f"SELECT feature, token, value FROM activations WHERE sae_key = {int(sae_key)}"
        f" AND feature >= {int(features[0])} AND feature < {int(features[1])}"
    )
    for batch in db.sql(sql).to_arrow_reader(_ROWS_AT_ONCE):
        feature, token, value = (batch.column(name).to_numpy() for name in ("feature", "token", "value"))
        new = feature.astype(np.int64) * len(known.strings) + known.codes[token]
        keys, masses = _added(np.concatenate([keys, new]), np.concatenate([masses, value]))
    return keys, masses


def _added(
    keys: Int[np.ndarray, " n"], masses: Float[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    distinct, inverse = np.unique(keys, return_inverse=True)
    return distinct, np.bincount(inverse, weights=masses, minlength=len(distinct))


def _best(
    keys: Int[np.ndarray, " n"], masses: Float[np.ndarray, " n"], known: TokenCodes
) -> dict[int, list[str]]:
    feature, code = np.divmod(keys, max(1, len(known.strings)))
    # Rounded, so that the order in which the sum was made leaves no trace.
    rank = np.lexsort((known.order[code], -masses.astype(np.float32), feature))
    feature, code = feature[rank], code[rank]
    starts = np.flatnonzero(np.r_[True, feature[1:] != feature[:-1]]) if len(feature) else np.zeros(0, int)
    return {
        int(feature[start]): [
            known.strings[c] for c in code[start : min(start + N_TOP_TOKENS, stop)].tolist()
        ]
        for start, stop in zip(starts, np.r_[starts[1:], len(feature)], strict=True)
    }

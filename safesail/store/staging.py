"""What a harvest or a selection under way has computed: files beside the store.

They go into the store when all are there: a harvest's nonzeros sorted by feature, so that the store holds each of them
once, packed. A file has its name only once it is whole; what a killed run left half-written is written again.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from safesail.errors import DataError
from safesail.files import whole_file
from safesail.store.bulk import Column
from safesail.store.sql import Db, value

_NONZEROS: dict[str, Any] = {  # pyarrow takes a list of columns for a dictionary; its stubs do not know
    "row_group_size": 1 << 16,
    "compression": "zstd",
    "use_dictionary": ["feature"],
    "column_encoding": {"token": "DELTA_BINARY_PACKED", "value": "BYTE_STREAM_SPLIT"},
}
_TEXT = "_text"


def staging_dir(db: Db, name: str) -> Path:
    """Folder of a stage's files, `<store>.<name>`: not made yet."""
    path = value(db, "SELECT path FROM duckdb_databases() WHERE database_name = current_database()")
    assert path, "a store in memory has no folder beside it"
    return Path(f"{path}.{name}")


def clear(folder: Path) -> None:
    """Remove a folder of staged files, and the one that held it when it is the last."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.parent.is_dir() and not any(folder.parent.iterdir()):
        folder.parent.rmdir()


def write_nonzeros(folder: Path, shard: int, sae_key: int, columns: Mapping[str, Column]) -> None:
    """Write one SAE's nonzeros of one shard; whole and on disk when this returns.

    Args:
        folder: Made where it is missing.
        shard: Number of the shard.
        sae_key: Of the SAE.
        columns: feature, token, value; sorted by feature, then token.

    Raises:
        DataError: the disk is full, or the folder cannot be written.
    """
    with whole_file(_nonzeros(folder, shard, sae_key), private=True) as partial:
        pq.write_table(pa.table(dict(columns)), partial, **_NONZEROS)


def nonzero_paths(folder: Path, shards: Iterable[int], sae_key: int) -> list[str]:
    """Files of one SAE, in the order of the shards.

    Raises:
        DataError: one is missing.
    """
    paths = [_nonzeros(folder, shard, sae_key) for shard in sorted(shards)]
    if lost := next((path for path in paths if not path.is_file()), None):
        raise DataError(
            f"{lost} is missing; {folder.parent.name} must lie beside its store until the harvest has ended: "
            "put it back, or start again with --replace"
        )
    return [str(path) for path in paths]


def _nonzeros(folder: Path, shard: int, sae_key: int) -> Path:
    return folder / f"{shard:07}-{sae_key}.parquet"


def has_part(folder: Path, name: str) -> bool:
    """Whether a part of a selection was written whole."""
    return _part(folder, name).is_file()


def write_part(folder: Path, name: str, text: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write what a selection found of one SAE in one chunk of concepts; whole and on disk when this returns.

    Args:
        folder: Made where it is missing.
        name: Of the part.
        text: What JSON can say.
        arrays: By name.

    Raises:
        DataError: the disk is full, or the folder cannot be written.
    """
    spelled = np.frombuffer(json.dumps(dict(text), allow_nan=False).encode(), np.uint8)
    with whole_file(_part(folder, name), private=True) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **{_TEXT: spelled, **arrays})


def read_part(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The text and the arrays of a part.

    Raises:
        DataError: it is missing or broken.
    """
    path = _part(folder, name)
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
            return json.loads(arrays.pop(_TEXT).tobytes()), arrays
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise DataError(
            f"{path} is missing or broken ({type(error).__name__}); remove {folder} and select again"
        ) from error


def _part(folder: Path, name: str) -> Path:
    return folder / f"{name}.npz"

"""Activations of a harvest under way: Parquet files beside the store, one a shard and SAE.

They go into the store sorted by feature when the harvest ends, so that the store holds each nonzero once, packed. A
file counts only when the store has its shard's row; one that a killed run left behind is written again.
"""

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from safesail.errors import DataError
from safesail.store.bulk import Column
from safesail.store.connection import Db
from safesail.store.sql import value

_FORMAT: dict[str, Any] = {  # pyarrow takes a list of columns for a dictionary; its stubs do not know
    "row_group_size": 1 << 16,
    "compression": "zstd",
    "use_dictionary": ["feature"],
    "column_encoding": {"token": "DELTA_BINARY_PACKED", "value": "BYTE_STREAM_SPLIT"},
}


def staging_dir(db: Db, harvest_key: int) -> Path:
    """Folder of a harvest's files: `<store>.harvest/<key>`, or a temporary one for a store in memory."""
    path = value(db, "SELECT path FROM duckdb_databases() WHERE database_name = current_database()")
    if path:
        return Path(f"{path}.harvest") / str(harvest_key)
    folder = value(db, "SELECT getvariable('staging')")
    if folder is None:
        folder = tempfile.mkdtemp(prefix="safesail-")
        db.execute("SET VARIABLE staging = ?", [folder])
    return Path(folder) / str(harvest_key)


def write_part(folder: Path, shard: int, sae_key: int, columns: Mapping[str, Column]) -> None:
    """Write one SAE's nonzeros of one shard; whole and on disk when this returns.

    Args:
        folder: As `staging_dir` gives it; made where it is missing.
        shard: Number of the shard.
        sae_key: Of the SAE.
        columns: feature, token, value; sorted by feature, then token.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = _part(folder, shard, sae_key)
    partial = path.with_suffix(".partial")
    pq.write_table(pa.table(dict(columns)), partial, **_FORMAT)
    descriptor = os.open(partial, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    partial.replace(path)


def parts(folder: Path, shards: Iterable[int], sae_key: int) -> list[str]:
    """Files of one SAE, in the order of the shards.

    Raises:
        DataError: one is missing.
    """
    paths = [_part(folder, shard, sae_key) for shard in sorted(shards)]
    if lost := next((path for path in paths if not path.is_file()), None):
        raise DataError(
            f"{lost} is missing; {folder.parent.name} must lie beside its store until the harvest has ended: "
            "put it back, or start again with --replace"
        )
    return [str(path) for path in paths]


def clear(folder: Path) -> None:
    """Remove a harvest's files, and the folder that held them when it is the last."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.parent.is_dir() and not any(folder.parent.iterdir()):
        folder.parent.rmdir()


def _part(folder: Path, shard: int, sae_key: int) -> Path:
    return folder / f"{shard:07}-{sae_key}.parquet"

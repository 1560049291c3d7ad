"""What a selection under way has found: files beside the store, one an SAE and chunk of concepts.

They go into the store when all of an SAE's are there. A file has its name only once it is whole; what a killed run
left half-written is written again.
"""

import json
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import BadZipFile

import numpy as np

from safesail.errors import DataError
from safesail.store.connection import Db
from safesail.store.sql import value

_TEXT = "_text"


@contextmanager
def parts_dir(db: Db) -> Generator[Path, None, None]:
    """Folder of selections under way: `<store>.selection`, or a temporary one for a store in memory."""
    path = value(db, "SELECT path FROM duckdb_databases() WHERE database_name = current_database()")
    if path:
        yield Path(f"{path}.selection")
        return
    with TemporaryDirectory(prefix="safesail-") as folder:
        yield Path(folder)


def has_part(folder: Path, name: str) -> bool:
    """Whether a part was written whole."""
    return _part(folder, name).is_file()


def write_part(folder: Path, name: str, text: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a part; whole and on disk when this returns.

    Args:
        folder: Is made where it is missing.
        name: Of the part.
        text: What JSON can say.
        arrays: By name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = _part(folder, name)
    partial = path.with_suffix(".partial")
    spelled = np.frombuffer(json.dumps(dict(text), allow_nan=False).encode(), np.uint8)
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **{_TEXT: spelled, **arrays})
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


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

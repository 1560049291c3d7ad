"""Files of named arrays, any part of which is read without the rest: a harvest's own, beside the store.

Arrays follow each other as they lie in memory; at the end stands a JSON index of them, and its length.
"""

import json
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from safesail.errors import DataError
from safesail.files import whole_file

_MAGIC = b"SAILrun1"


@dataclass
class SectionWriter:
    """A file under way."""

    _file: BinaryIO
    _index: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    _end: int = 0

    def add(self, name: str, array: NDArray[Any]) -> None:
        """Append an array."""
        self._index[name] = (array.dtype.str, self._end, len(array))
        self._file.write(np.ascontiguousarray(array).data)
        self._end += array.nbytes

    def close(self, about: Mapping[str, Any]) -> None:
        """Write the index."""
        text = json.dumps({"arrays": self._index, "about": dict(about)}).encode()
        self._file.write(text + len(text).to_bytes(8, "little") + _MAGIC)


@contextmanager
def write_sections(path: Path, about: Mapping[str, Any]) -> Generator[SectionWriter, None, None]:
    """A file that is there, whole and on the disk, when the block has ended, or not at all.

    Args:
        path: Of the file; its folder is made.
        about: What JSON can say of it.

    Raises:
        DataError: the disk is full, or the folder cannot be written.
    """
    # A large buffer: arrays of some kilobytes must not each be a call of the system's.
    with whole_file(path, private=True) as partial, partial.open("wb", buffering=1 << 20) as file:
        writer = SectionWriter(file)
        yield writer
        writer.close(about)
        file.flush()  # `whole_file` syncs what the file holds


@dataclass(frozen=True)
class SectionFile:
    """A file that `write_sections` wrote."""

    path: Path
    about: Mapping[str, Any]
    _index: Mapping[str, tuple[str, int, int]]

    @classmethod
    def open(cls, path: Path) -> "SectionFile":
        """Read the index.

        Raises:
            DataError: it is missing, or damaged.
        """
        try:
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(size - 16)
                tail = file.read()
                length = int.from_bytes(tail[:8], "little")
                if tail[8:] != _MAGIC or length > size - 16:
                    raise ValueError("no index")
                file.seek(size - 16 - length)
                head = json.loads(file.read(length))
        except FileNotFoundError as error:
            raise _missing(path) from error
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path} is damaged ({error}); put a copy back, or start again with --replace"
            ) from error
        return cls(path, head["about"], head["arrays"])

    def read(self, name: str, first: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Elements [first, stop) of an array, in memory.

        Raises:
            DataError: the file is gone.
        """
        dtype, offset, length = self._index[name]
        n = (length if stop is None else stop) - first
        kind = np.dtype(dtype)
        try:
            return np.fromfile(self.path, kind, n, offset=offset + first * kind.itemsize)
        except FileNotFoundError as error:
            raise _missing(self.path) from error

    def __contains__(self, name: str) -> bool:
        return name in self._index


def _missing(path: Path) -> DataError:
    return DataError(
        f"{path} is missing; {path.parent.parent.name} must lie beside its store until the harvest has ended: "
        "put it back, or start again with --replace"
    )

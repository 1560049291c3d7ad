"""What a harvest or a selection under way has computed: files beside the store.

They go into the store when all are there: a harvest's nonzeros sorted by feature, so that the store holds each of them
once, packed. A file has its name only once it is whole; what a killed run left half-written is written again.
"""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from safesail.errors import DataError
from safesail.files import whole_file
from safesail.store.histogram import Histogram
from safesail.store.runs import Run
from safesail.store.sections import SectionFile, write_sections
from safesail.store.sql import Db, value

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


def write_shard_file(
    folder: Path, shard: int, first_slot: int, runs: Mapping[int, Run], dropped: Mapping[int, Histogram]
) -> None:
    """Write the nonzeros of one shard; whole and on disk when this returns.

    Args:
        folder: Made where it is missing.
        shard: Number of the shard.
        first_slot: Number of its first token slot in the harvest.
        runs: Nonzeros that are kept, by sae_key.
        dropped: Histograms of the others, by sae_key; empty where all are kept.

    Raises:
        DataError: the disk is full, or the folder cannot be written.
    """
    if dropped:
        with write_sections(_dropped(folder, shard), {}) as file:
            for sae_key, histogram in dropped.items():
                histogram.save(file, str(sae_key))
    with write_sections(_run_file(folder, shard), {"first_slot": first_slot}) as file:
        for sae_key, run in runs.items():
            run.save(file, str(sae_key))


def shard_files(folder: Path, shards: Iterable[int]) -> list[SectionFile]:
    """Files of nonzeros, in the order of the shards.

    Raises:
        DataError: one is missing, or damaged.
    """
    return [SectionFile.open(_run_file(folder, shard)) for shard in sorted(shards)]


class DroppedHistograms:
    """Histograms of nonzeros that are not kept: added up on disk whenever as much came as there was.

    So they grow with the features, not with the text, and no more than one SAE's is in memory. The sum names the
    shards in it, so that a run killed at any moment counts none twice.
    """

    def __init__(self, folder: Path, sae_keys: Sequence[int], *, least: int = 1 << 26) -> None:
        """`least`: Bytes that shards bring at least before they are added up."""
        self._folder, self._sae_keys, self._least = folder, list(sae_keys), least

    def after_shard(self, shards: Iterable[int]) -> None:
        """Add up what the stored shards brought, where that is due.

        Raises:
            DataError: the disk is full, or the folder cannot be written; what was there stays.
        """
        pending = self._pending(shards)
        size = sum(_dropped(self._folder, shard).stat().st_size for shard in pending)
        if size >= max(self._least, self._sum.stat().st_size if self._sum.is_file() else 0):
            self._add_up(pending)

    def total(self, shards: Iterable[int], sae_key: int) -> Histogram | None:
        """One SAE's sum over the stored shards; None where nothing was dropped.

        Raises:
            DataError: a file is missing, or damaged.
        """
        parts = [SectionFile.open(_dropped(self._folder, shard)) for shard in self._pending(shards)]
        whole = [SectionFile.open(self._sum)] if self._sum.is_file() else []
        return self._of(sae_key, [*whole, *parts])

    @property
    def _sum(self) -> Path:
        return self._folder / "dropped.sum"

    def _covered(self) -> list[int]:
        return list(SectionFile.open(self._sum).about["shards"]) if self._sum.is_file() else []

    def _pending(self, shards: Iterable[int]) -> list[int]:
        left = sorted(set(shards) - set(self._covered()))
        return [shard for shard in left if _dropped(self._folder, shard).is_file()]

    def _of(self, sae_key: int, files: Sequence[SectionFile]) -> Histogram | None:
        name = str(sae_key)
        parts = [Histogram.load(file, name) for file in files if f"{name}/key" in file]
        return Histogram.add_up(parts) if parts else None

    def _add_up(self, pending: list[int]) -> None:
        files = [SectionFile.open(_dropped(self._folder, shard)) for shard in pending]
        covered = self._covered()
        whole = [SectionFile.open(self._sum)] if covered else []
        with write_sections(self._sum, {"shards": [*covered, *pending]}) as file:
            for sae_key in self._sae_keys:
                summed = self._of(sae_key, [*whole, *files])
                if summed is not None:
                    summed.save(file, str(sae_key))
        for shard in pending:
            _dropped(self._folder, shard).unlink()


def _run_file(folder: Path, shard: int) -> Path:
    return folder / f"{shard:07}.run"


def _dropped(folder: Path, shard: int) -> Path:
    return folder / f"{shard:07}.dropped"


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

"""Unpacking a release's zip from a stranger: only what its manifest names, only as large as it says."""

import shutil
import stat
import zipfile
import zlib
from pathlib import Path

from safesail.catalog.format import MANIFEST, MAX_MANIFEST_BYTES, SAE_FILE, Manifest, parse_manifest
from safesail.errors import DataError

MAX_RATIO = 100
"""A file may grow this much when unpacked. Parquet is compressed already and hardly grows at all."""

FREE_BYTES = 64 * 2**20
"""Disk space that unpacking must leave."""


def unpack(path: Path, folder: Path) -> Manifest:
    """Unpack the release at `path` into the empty `folder`.

    Raises:
        DataError: not a zip, names that lead elsewhere, links, files that the manifest does not
            name or that are larger than it says.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _entries(archive, path)
            manifest = parse_manifest(_read_manifest(archive, entries, path), f"{path}: {MANIFEST}")
            _check_sizes(entries, manifest, path, free=shutil.disk_usage(folder).free)
            for name, entry in entries.items():
                _copy(archive, entry, folder / name)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise DataError(f"{path} is not a sound zip: {error}") from error
    return manifest


def _entries(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = entry.filename
        nested = SAE_FILE.fullmatch(name) is None and "/" in name
        if nested or "\\" in name or ":" in name or name in ("", ".", "..") or not name.isprintable():
            raise DataError(f"{path} holds {name[:80]!r}; a release has plain file names and no folders")
        mode = entry.external_attr >> 16
        if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise DataError(f"{path} holds {name!r} as a link or device; a release has plain files only")
        if entry.flag_bits & 0x1:
            raise DataError(f"{path} holds {name!r} encrypted; a release is not")
        if name in entries:
            raise DataError(f"{path} holds {name!r} twice")
        entries[name] = entry
    return entries


def _read_manifest(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], path: Path) -> bytes:
    if MANIFEST not in entries:
        raise DataError(f"{path} holds no {MANIFEST}, so it is no catalog release")
    with archive.open(entries[MANIFEST]) as stream:
        return stream.read(MAX_MANIFEST_BYTES + 1)


def _check_sizes(entries: dict[str, zipfile.ZipInfo], manifest: Manifest, path: Path, *, free: int) -> None:
    if odd := sorted(set(entries) ^ {MANIFEST, *manifest.files}):
        raise DataError(f"{path} and its manifest do not agree about {odd[0]!r}")
    for name, listed in manifest.files.items():
        entry = entries[name]
        if entry.file_size != listed.bytes:
            raise DataError(
                f"{path}: {name} unpacks to {entry.file_size:,} bytes, the manifest says {listed.bytes:,}"
            )
        if entry.file_size > MAX_RATIO * max(entry.compress_size, 1024):
            raise DataError(f"{path}: {name} would grow more than {MAX_RATIO}-fold; that is no Parquet file")
    if sum(entry.file_size for entry in entries.values()) + FREE_BYTES > free:
        raise DataError(f"{path} does not fit on the disk; free some space")


def _copy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> None:
    """Copy at most the bytes that the entry claims: a header may lie."""
    left = entry.file_size
    target.parent.mkdir(exist_ok=True, parents=True)
    with archive.open(entry) as source, target.open("xb") as out:
        while block := source.read(min(2**20, left + 1)):
            left -= len(block)
            if left < 0:
                raise DataError(f"{entry.filename} is larger than its entry in the zip says")
            out.write(block)

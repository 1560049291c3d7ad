"""Is a release whole, of this format, and true to its manifest?"""

import hashlib
import math
import time
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from safesail.catalog.archive import unpack
from safesail.catalog.format import (
    KEYS,
    MANIFEST,
    FileEntry,
    Manifest,
    WeightsEntry,
    columns_of,
    file_digest,
    plain,
    read_manifest,
    tables_of,
)
from safesail.catalog.rules import FORBIDDEN, RANGES, REFERENCES, ROWS, conditions
from safesail.errors import ChecksumError, DataError, FingerprintError, NotFoundError, SaeError, SafeSailError
from safesail.files import remove, whole_file, whole_folder
from safesail.resources import cache_dir
from safesail.sae.settings import WEIGHTS, read_settings
from safesail.sae.stored import stored_sha256
from safesail.store.arrow import ArrowSchema
from safesail.store.connection import Db
from safesail.store.release import (
    first_broken,
    first_lost,
    first_repeated,
    first_row,
    open_release,
    parquet_faults,
    release_counts,
    release_origins,
    write_catalog,
)
from safesail.store.schema import VIEWS

KEPT_ZIPS = 4
"""Unpacked releases that stay in the user's cache, the newest ones."""

KEPT_VERDICTS = 32


def verify_release(path: Path) -> Manifest:
    """Check everything that can be checked of a release's folder or zip without the model.

    Raises:
        DataError: as `verify_folder` says it.
    """
    return release_folder(path, again=True)[1]


def release_folder(path: Path, *, again: bool = False) -> tuple[Path, Manifest]:
    """The folder of a verified release; a zip's is unpacked in the user's cache, once.

    Args:
        path: A release's folder or zip.
        again: Verify it although it was verified before and has not changed since.

    Raises:
        NotFoundError: no release there.
        DataError: it is damaged, as `verify_folder` and `unpack` say it.
    """
    if path.is_dir():
        if not (path / MANIFEST).is_file():
            raise NotFoundError(f"{path} is a folder without {MANIFEST}; name a store, or a catalog release")
        return path, verify_folder(path, again=again)
    if not path.is_file():
        raise NotFoundError(f"no catalog release at {path}")
    info = path.stat()
    name = repr((info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns))
    folder = cache_dir() / "releases" / hashlib.sha256(name.encode()).hexdigest()
    if again or not folder.is_dir():
        with whole_folder(folder, replace=True) as partial, faults_of(partial, str(path)):
            unpack(path, partial)
            manifest = verify_folder(partial)
        for old in sorted(folder.parent.iterdir(), key=lambda f: f.lstat().st_mtime, reverse=True)[
            KEPT_ZIPS:
        ]:
            remove(old)
        return folder, manifest
    return folder, verify_folder(folder, again=False)


@contextmanager
def faults_of(folder: Path, name: str) -> Generator[None, None, None]:
    """Errors about files of a temporary folder speak of what the user named."""
    try:
        yield
    except SafeSailError as error:
        raise type(error)(str(error).replace(str(folder), name)) from error


def verify_folder(folder: Path, *, again: bool = True) -> Manifest:
    """Check everything that can be checked without the model: digests, types, every value, reference and count.

    A release that passed is not checked again as long as its files are the same by size, inode, and times of
    modification and of change. The last is the system's own: setting a file's modification time back does not hide
    a changed byte from it. What does: a clock that is set back, and a change below the file system (a failing disk).
    The verdict, in the user's cache, is the release's view `catalog` as Parquet, which takes as long to compute.

    Args:
        folder: The release's folder.
        again: Check although a verdict is kept.

    Raises:
        NotFoundError: no release there.
        SchemaVersionError: a newer format.
        ChecksumError: a file is missing, or differs from what the manifest says.
        FingerprintError: an index that its SAE does not have, or an SAE that the manifest does not name.
        DataError: a faulty manifest or table.
    """
    manifest = read_manifest(folder)
    _check_listing(folder, manifest)
    verdict = _verdict(folder, manifest)
    if not again and verdict.is_file():
        return manifest
    settled = _settled(folder, manifest, wait=not again)
    for name, entry in manifest.files.items():
        _check_bytes(folder / name, entry)
    for sae in manifest.weights:
        _check_weights(folder, sae, manifest)
    for table in tables_of(manifest.format_version):
        _check_schema(folder / f"{table}.parquet", table, manifest)
    with _opened(folder, manifest) as db, parquet_faults(folder):
        _check_rows(db, folder, tables_of(manifest.format_version))
        _check_references(db, folder)
        _check_counts(db, folder, manifest)
        if settled and _verdict(folder, manifest) == verdict:
            _keep(verdict, db)
    return manifest


def open_manifest(folder: Path, manifest: Manifest) -> AbstractContextManager[Db]:
    """The tables of a verified release, as `safesail.store.release.open_release` gives them."""
    verdict = _verdict(folder, manifest)
    return _opened(folder, manifest, verdict if verdict.is_file() else None)


def _opened(folder: Path, manifest: Manifest, catalog: Path | None = None) -> AbstractContextManager[Db]:
    return open_release(
        folder,
        [model.model_dump() for model in manifest.subject_models],
        [sae.model_dump() for sae in manifest.saes],
        catalog=catalog,
    )


def _verdict(folder: Path, manifest: Manifest) -> Path:
    """Where the verdict is kept: the same as long as nobody wrote to a file of the release, and no rule changed."""
    files = [(folder / name).stat() for name in (MANIFEST, *manifest.files) if (folder / name).is_file()]
    stats = [(s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in files]
    rules = (RANGES, ROWS, REFERENCES, FORBIDDEN, VIEWS)
    name = hashlib.sha256(repr((rules, manifest.as_bytes(), stats)).encode()).hexdigest()
    return cache_dir() / "verified" / f"{name}.parquet"


def _settled(folder: Path, manifest: Manifest, *, wait: bool) -> bool:
    """Was the last change long enough ago that any other from now on has another time? Waits for that if asked."""
    stats = [(folder / name).stat() for name in (MANIFEST, *manifest.files) if (folder / name).is_file()]
    # Linux counts in steps of up to 10 ms; FAT and some network file systems in whole seconds.
    step = 2.0 if any(s.st_mtime_ns % 10**9 == 0 for s in stats) else 0.1
    left = max(max(s.st_mtime, s.st_ctime) for s in stats) + step - time.time()
    if wait and 0 < left <= step:
        time.sleep(left)
    return left <= 0 or (wait and left <= step)


def _keep(verdict: Path, db: Db) -> None:
    # A cache that cannot be written to costs time, and nothing else.
    with suppress(DataError), whole_file(verdict, private=True) as partial:
        write_catalog(db, partial)
        _keep_newest(verdict.parent, KEPT_VERDICTS)


def _keep_newest(folder: Path, n: int) -> None:
    for old in sorted(folder.iterdir(), key=lambda f: f.lstat().st_mtime, reverse=True)[n:]:
        remove(old)


def _check_listing(folder: Path, manifest: Manifest) -> None:
    """Nothing is in the folder that the manifest does not name, and no link leads out of it."""
    named = {MANIFEST, *manifest.files}
    folders = {str(parent) for name in named for parent in PurePosixPath(name).parents} - {"."}
    for entry in sorted(folder.rglob("*")):
        name = entry.relative_to(folder).as_posix()
        if name in named and (entry.is_symlink() or not entry.is_file()):
            raise DataError(f"{entry} must be a plain file")
        if name in folders and (entry.is_symlink() or not entry.is_dir()):
            raise DataError(f"{entry} must be a plain folder")
        # .gitattributes and the like of hosting sites
        if name not in named | folders and not name.startswith("."):
            raise DataError(f"{entry} is not in the manifest")


def _check_bytes(path: Path, entry: FileEntry) -> None:
    if not path.is_file():
        raise ChecksumError(f"{path} is missing; download the release again")
    if path.stat().st_size != entry.bytes:
        raise ChecksumError(f"{path} has {path.stat().st_size:,} bytes, the manifest says {entry.bytes:,}")
    if file_digest(path) != entry.sha256:
        raise ChecksumError(f"{path} differs from its SHA-256 in the manifest; download the release again")


def _check_weights(folder: Path, entry: WeightsEntry, manifest: Manifest) -> None:
    """The weights that come along are those that the explanations are about."""
    sae = next(sae for sae in manifest.saes if sae.sae_id == entry.sae_id)
    try:
        settings = read_settings(folder / entry.folder) or {}
        weights = stored_sha256(folder / entry.folder / WEIGHTS)
    except SaeError as error:
        raise DataError(str(error)) from error
    if weights != sae.sha256:
        raise FingerprintError(f"{folder / entry.folder} has other weights than SAE {plain(entry.sae_id)}")
    for name in ("d_in", "d_sae"):
        if settings.get(name) != getattr(sae, name):
            raise FingerprintError(
                f"{folder / entry.folder}: {name} is not that of SAE {plain(entry.sae_id)}"
            )


def _check_schema(path: Path, table: str, manifest: Manifest) -> None:
    try:
        # Opened by us: pyarrow must not look at a URI or at folders named like partitions.
        with path.open("rb") as stream, pq.ParquetFile(stream) as file:
            n_rows, schema = file.metadata.num_rows, file.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a sound Parquet file: {str(error).splitlines()[0]}") from error
    if n_rows != manifest.files[path.name].rows:
        raise DataError(f"{path} has {n_rows:,} rows, the manifest says {manifest.files[path.name].rows:,}")
    _check_types(path, schema, columns_of(table, manifest.format_version))


def _check_types(path: Path, given: ArrowSchema, expected: ArrowSchema) -> None:
    if given.names != expected.names:
        odd = sorted(set(given.names) ^ set(expected.names)) or given.names
        raise DataError(f"{path} has not the columns of the format; look at {plain(odd[0])}")
    for field in expected:
        kind = given.field(field.name).type
        if not _same(kind, field.type):
            raise DataError(f"{path}: column {field.name!r} is {kind}, the format has {field.type}")


def _same(given: Any, expected: Any) -> bool:
    """Equal, whatever a list calls its items."""
    if pa.types.is_list(given) and pa.types.is_list(expected):
        return _same(given.value_type, expected.value_type)
    return given.equals(expected)


def _check_rows(db: Db, folder: Path, tables: Sequence[str]) -> None:
    for table in tables:
        where = f"{folder / table}.parquet"
        if broken := first_broken(db, table, conditions(table)):
            raise DataError(f"{where}: {broken[0]} ({broken[1]})")
        if repeated := first_repeated(db, table, KEYS[table]):
            raise DataError(f"{where}: {plain(repeated)} is there twice by {', '.join(KEYS[table])}")


def _check_references(db: Db, folder: Path) -> None:
    where = folder / "features.parquet"
    if lost := first_lost(db, "features", ("sae_id",), "saes"):
        raise FingerprintError(f"{where}: SAE {plain(lost)} is not in the manifest")
    wide = 'SELECT sae_id, "index" FROM release.features JOIN saes USING (sae_id) WHERE "index" >= d_sae'
    if beyond := first_row(db, wide):
        raise FingerprintError(
            f"{where}: {plain(beyond)} is beyond the width that the manifest gives its SAE"
        )
    for table, columns, target in REFERENCES:
        if lost := first_lost(db, table, columns, target):
            raise DataError(
                f"{folder / table}.parquet: {plain(lost)} is not in {target}, by {', '.join(columns)}"
            )
    for says, select in FORBIDDEN.items():
        if row := first_row(db, select):
            raise DataError(f"{folder}: {says} ({plain(row)})")


def _check_counts(db: Db, folder: Path, manifest: Manifest) -> None:
    """The manifest's counts are those of the tables. The first releases counted all scores."""
    stated = manifest.counts.model_dump()
    true = release_counts(db)
    if not _equal_counts(stated, true) and not _equal_counts(stated, release_counts(db, every_score=True)):
        name = next(name for name in true if not _equal_counts({name: stated[name]}, {name: true[name]}))
        raise DataError(f"{folder / MANIFEST}: counts.{name} is {stated[name]}, the tables have {true[name]}")
    if manifest.origins != release_origins(db):
        raise DataError(f"{folder / MANIFEST}: origins are not those of explanations.parquet")


def _equal_counts(stated: dict[str, Any], true: dict[str, Any]) -> bool:
    return all(
        stated[name] == number
        or (isinstance(number, float) and isinstance(stated[name], float)
            and math.isclose(stated[name], number, rel_tol=1e-9, abs_tol=1e-12))
        for name, number in true.items()
    )  # fmt: skip

"""Bringing a catalog into a store: find its format, read it, check it, write all of it or nothing."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from safesail.catalog.archive import unpack
from safesail.catalog.config import ImportOptions
from safesail.catalog.format import MANIFEST, TABLES, Manifest
from safesail.catalog.gather import Gathered, ImportReport
from safesail.catalog.importers import delphi, neuronpedia, saedashboard, safe_sail, tabular
from safesail.catalog.reading import read_json
from safesail.catalog.release import file_digest, release_digest
from safesail.catalog.verify import verify_folder
from safesail.errors import ConfigError, NotFoundError
from safesail.store.arrow import ArrowTable
from safesail.store.connection import Db, open_writer
from safesail.store.imports import (
    ImportedModel,
    ImportedSae,
    add_tables,
    record_import,
    register_imported_sae,
    register_model,
)
from safesail.store.sql import transaction

Format = Literal["release", "safe-sail", "neuronpedia", "saedashboard", "delphi", "delphi-labels", "table"]
FORMATS: tuple[Format, ...] = get_args(Format)

_READERS: dict[Format, Callable[[Path, Gathered], None]] = {
    "safe-sail": safe_sail.read,
    "neuronpedia": neuronpedia.read,
    "saedashboard": saedashboard.read,
    "delphi": delphi.read,
    "delphi-labels": delphi.read_labels,
    "table": tabular.read,
}


def import_catalog(
    store: Path, source: Path, options: ImportOptions, *, form: Format | None = None
) -> ImportReport:
    """Bring the catalog at `source` into `store`. A second time changes nothing.

    Args:
        store: The store, made where there is none.
        source: A file or folder.
        options: What the catalog does not say of itself.
        form: Its format; found out where None.

    Raises:
        NotFoundError: nothing at `source`.
        ConfigError: the format cannot be told, or the options leave out what the catalog does not say.
        DataError: the catalog is faulty.
        FingerprintError: it is about other models or SAEs than the store's of the same name.
    """
    if not source.exists():
        raise NotFoundError(f"nothing at {source}")
    form = form or detect(source)
    new_store = not store.exists()
    try:
        if form == "release":
            with opened_release(source) as (folder, manifest), open_writer(store) as db:
                return import_release(db, folder, manifest, options.name)
        gathered = Gathered(options)
        _READERS[form](source, gathered)
        with open_writer(store) as db:
            return _write(db, gathered, form, _digest(source))
    except BaseException:
        if new_store:
            store.unlink(missing_ok=True)
        raise


def detect(source: Path) -> Format:
    """The format of a catalog.

    Raises:
        ConfigError: it is none that is known.
    """
    if (source / MANIFEST).is_file() or source.suffix == ".zip":
        return "release"
    if source.name.endswith((".csv", ".jsonl", ".jsonl.gz")):
        return "table"
    found = _detect_folder(source) if source.is_dir() else _detect_json(source)
    if found is None:
        raise ConfigError(
            f"{source} is in no format that is known; name one with --format: {', '.join(FORMATS)}"
        )
    return found


def _detect_folder(folder: Path) -> Format | None:
    if neuronpedia.fits(folder):
        return "neuronpedia"
    if delphi.fits(folder):
        return "delphi"
    files = sorted(folder.glob("*_db.json")) + sorted(folder.glob("batch-*.json"))
    return _detect_json(files[0]) if files else None


def _detect_json(path: Path) -> Format | None:
    if path.suffix != ".json":
        return None
    content = read_json(path)
    checks: tuple[tuple[Format, Callable[[Any], bool]], ...] = (
        ("safe-sail", safe_sail.fits), ("saedashboard", saedashboard.fits), ("delphi-labels", delphi.fits_labels),
    )  # fmt: skip
    return next((form for form, fits in checks if fits(content)), None)


@contextmanager
def opened_release(path: Path) -> Generator[tuple[Path, Manifest], None, None]:
    """A verified release as a folder; a zip is unpacked for as long as the block runs."""
    if path.is_dir():
        yield path, verify_folder(path)
        return
    work = Path(tempfile.mkdtemp(prefix="safesail-release-"))
    try:
        unpack(path, work)
        yield work, verify_folder(work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def import_release(db: Db, folder: Path, manifest: Manifest, name: str) -> ImportReport:
    """Bring a verified release into an open store."""
    with transaction(db):
        for model in manifest.subject_models:
            register_model(db, ImportedModel(**model.model_dump()))
        for sae in manifest.saes:
            register_imported_sae(db, ImportedSae(**sae.model_dump()))
        tables = {table: _batches(folder / f"{table}.parquet") for table in TABLES}
        new = add_tables(db, tables, tuple(TABLES))
        rows = {table: manifest.files[f"{table}.parquet"].rows or 0 for table in TABLES}
        report = ImportReport(name, "release", release_digest(manifest), rows, new, ())
        record_import(db, name, report.format, report.sha256, asdict(report))
    return report


def _batches(path: Path) -> Generator[ArrowTable, None, None]:
    with path.open("rb") as stream, pq.ParquetFile(stream) as file:
        schema = TABLES[path.stem]
        # Rows with an order of their own must be seen all at once for it to be kept.
        whole = "ordinal" in schema.names
        for batch in file.iter_batches(max(1, file.metadata.num_rows) if whole else 262_144):
            yield pa.Table.from_batches([batch]).cast(schema)


def _write(db: Db, gathered: Gathered, form: str, sha256: str) -> ImportReport:
    options, tables = gathered.options, gathered.tables()
    with transaction(db):
        for model in gathered.models.values():
            register_model(db, model)
        for sae in gathered.saes.values():
            register_imported_sae(db, sae)
        new = add_tables(db, tables, tuple(TABLES))
        rows = {table: sum(map(len, batches)) for table, batches in tables.items()}
        report = ImportReport(options.name, form, sha256, rows, new, gathered.faults())
        record_import(db, options.name, form, sha256, asdict(report))
    return report


def _digest(source: Path) -> str:
    """SHA-256 over a file, or over the names and contents of a folder's files."""
    if source.is_file():
        return file_digest(source)
    digest = hashlib.sha256()
    for path in _files(source):
        digest.update(f"{path.relative_to(source)}\0{file_digest(path)}\n".encode())
    return digest.hexdigest()


def _files(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())

"""Bringing a catalog into a store: find its format, read it, check it, write all of it or nothing."""

import hashlib
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from safesail.catalog.config import ImportOptions
from safesail.catalog.format import MANIFEST, TABLES, file_digest, release_digest
from safesail.catalog.gather import Gathered, ImportReport
from safesail.catalog.importers import delphi, neuronpedia, saedashboard, safe_sail, tabular
from safesail.catalog.reading import read_json
from safesail.catalog.verify import release_folder
from safesail.domain.records import SaeRecord, SubjectInfo
from safesail.errors import ConfigError, NotFoundError
from safesail.store.arrow import ArrowTable
from safesail.store.connection import open_writer
from safesail.store.imports import add_tables, record_import
from safesail.store.registry import register_sae, register_subject
from safesail.store.sql import transaction

Format = Literal["release", "safe-sail", "neuronpedia", "saedashboard", "delphi", "delphi-labels", "table"]
FORMATS: tuple[Format, ...] = get_args(Format)


@dataclass(frozen=True)
class Importer:
    """Reads one format, and tells whether something is in it."""

    read: Callable[[Path, Gathered], None]
    folder: str | None = None
    """A folder is in this format where a file matches this pattern."""

    document: Callable[[Any], bool] | None = None
    """Whether a JSON document is in this format."""


IMPORTERS: dict[Format, Importer] = {
    "neuronpedia": Importer(neuronpedia.read, neuronpedia.FOLDER),
    "delphi": Importer(delphi.read, delphi.FOLDER),
    "safe-sail": Importer(safe_sail.read, safe_sail.FOLDER, safe_sail.fits),
    "saedashboard": Importer(saedashboard.read, saedashboard.FOLDER, saedashboard.fits),
    "delphi-labels": Importer(delphi.read_labels, document=delphi.fits_labels),
    "table": Importer(tabular.read),
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
    if form == "release":
        folder, manifest = release_folder(source, again=True)
        models = [SubjectInfo(**model.model_dump()) for model in manifest.subject_models]
        saes = [SaeRecord(**sae.model_dump()) for sae in manifest.saes]
        tables = {table: _batches(folder / f"{table}.parquet") for table in TABLES}
        rows = {table: manifest.files[f"{table}.parquet"].rows or 0 for table in TABLES}
        report = ImportReport(options.name, form, release_digest(manifest), rows, {}, ())
    else:
        gathered = Gathered(options)
        IMPORTERS[form].read(source, gathered)
        models, saes, tables = gathered.models.values(), gathered.saes.values(), gathered.tables()
        rows = {table: sum(map(len, batches)) for table, batches in tables.items()}
        report = ImportReport(options.name, form, _digest(source), rows, {}, gathered.faults())
    new_store = not store.exists()
    try:
        with open_writer(store) as db, transaction(db):
            for model in models:
                register_subject(db, model)
            for sae in saes:
                register_sae(db, sae)
            report = replace(report, new=add_tables(db, tables, tuple(TABLES)))
            record_import(db, report.name, report.format, report.sha256, asdict(report))
            return report
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
    content = read_json(source) if source.suffix == ".json" and source.is_file() else None
    for form, importer in IMPORTERS.items():
        if source.is_dir():
            fits = importer.folder is not None and any(source.glob(importer.folder))
        else:
            fits = importer.document is not None and importer.document(content)
        if fits:
            return form
    raise ConfigError(f"{source} is in no format that is known; name one with --format: {', '.join(FORMATS)}")


def _batches(path: Path) -> Generator[ArrowTable, None, None]:
    with path.open("rb") as stream, pq.ParquetFile(stream) as file:
        schema = TABLES[path.stem]
        # Rows with an order of their own must be seen all at once for it to be kept.
        whole = "ordinal" in schema.names
        for batch in file.iter_batches(max(1, file.metadata.num_rows) if whole else 262_144):
            yield pa.Table.from_batches([batch]).cast(
                pa.schema([schema.field(n) for n in batch.schema.names])
            )


def _digest(source: Path) -> str:
    """SHA-256 over a file, or over the names and contents of a folder's files."""
    if source.is_file():
        return file_digest(source)
    digest = hashlib.sha256()
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(source)}\0{file_digest(path)}\n".encode())
    return digest.hexdigest()

"""Bringing a catalog into a store: find its format, read it, check it, write all of it or nothing."""

import hashlib
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from safesail.catalog.config import FORMATS, Format, ImportOptions
from safesail.catalog.format import MANIFEST, TABLES, Manifest, file_digest, release_digest, tables_of
from safesail.catalog.gather import Gathered, ImportReport
from safesail.catalog.identity import Identity, place_sae
from safesail.catalog.importers import delphi, neuronpedia, saedashboard, safe_sail, tabular
from safesail.catalog.reading import read_json
from safesail.catalog.verify import release_folder
from safesail.domain.ids import content_id
from safesail.domain.records import SaeRecord, SubjectInfo
from safesail.errors import ConfigError, DataError, NotFoundError
from safesail.store.arrow import ArrowTable
from safesail.store.connection import Db, open_writer
from safesail.store.identities import remember_alias, sae_aliases
from safesail.store.imports import add_tables, begin_import, record_import, record_origin
from safesail.store.registry import register_sae, register_subject
from safesail.store.sql import transaction

_COMPUTE: Any = pc  # its functions are made when it is imported, and have no types


@dataclass(frozen=True)
class Importer:
    """Reads one format, and tells whether something is in it."""

    read: Callable[[Path, Gathered], None]
    folder: str | None = None
    """A folder is in this format where a file matches this pattern."""

    document: Callable[[Any], bool] | None = None
    """Whether a JSON document is in this format."""

    by_file: bool = False
    """It reads a folder file by file, and leaves out a faulty one by itself."""


IMPORTERS: dict[Format, Importer] = {
    "neuronpedia": Importer(neuronpedia.read, neuronpedia.FOLDER, by_file=True),
    "delphi": Importer(delphi.read, delphi.FOLDER),
    "safe-sail": Importer(safe_sail.read, safe_sail.FOLDER, safe_sail.fits),
    "saedashboard": Importer(saedashboard.read, saedashboard.FOLDER, saedashboard.fits),
    "delphi-labels": Importer(delphi.read_labels, document=delphi.fits_labels),
    "table": Importer(tabular.read),
}


@dataclass(frozen=True)
class Delivery:
    """What a download says of the files it brings: faulty ones are left out and named."""

    parts: tuple[Path, ...]
    """What the importer is given, one after the other."""

    digest: str
    """SHA-256 over all files."""

    provenance: Mapping[str, str] = field(default_factory=dict)


def import_catalog(
    store: Path,
    source: Path,
    options: ImportOptions,
    *,
    form: Format | None = None,
    delivery: Delivery | None = None,
) -> ImportReport:
    """Bring the catalog at `source` into `store`. A second time changes nothing.

    Rows are handed to the store while files are read, all in one transaction, so memory does not grow with them.

    Args:
        store: The store, made where there is none.
        source: A file or folder.
        options: What the catalog does not say of itself.
        form: Its format; found out where None.
        delivery: Of a download; None: a faulty file ends the import.

    Raises:
        NotFoundError: nothing at `source`.
        ConfigError: the format cannot be told, or the options leave out what the catalog does not say.
        DataError: the catalog is faulty.
        FingerprintError: it is about other models or SAEs than the store's of the same name.
    """
    if not source.exists():
        raise NotFoundError(f"nothing at {source}")
    form = form or detect(source)
    release = release_folder(source, again=True) if form == "release" else None
    given = delivery or Delivery((source,), "" if release else _digest(source))
    new_store = not store.exists()
    try:
        with open_writer(store) as db, transaction(db):
            begin_import(db)
            if release is not None:
                report = _bring_release(db, *release, options)
            else:
                report = _bring_files(db, form, options, given, tolerant=delivery is not None)
            report = replace(report, provenance=dict(given.provenance))
            record_import(db, report.name, report.format, report.sha256, asdict(report))
            return report
    except BaseException:
        if new_store:
            store.unlink(missing_ok=True)
        raise


def _bring_files(
    db: Db, form: Format, options: ImportOptions, given: Delivery, *, tolerant: bool
) -> ImportReport:
    new: Counter[str] = Counter()

    def hand_on(gathered: Gathered) -> None:
        for model in gathered.models.values():
            register_subject(db, model)
        for sae in gathered.saes.values():
            register_sae(db, sae)
        new.update(add_tables(db, gathered.take(), tuple(TABLES)))

    gathered = Gathered(options, tolerant=tolerant, hand_on=hand_on, aliases=sae_aliases(db))
    importer = IMPORTERS[form]
    for part in given.parts:
        with nullcontext() if importer.by_file else gathered.file(part.name):
            importer.read(part, gathered)
    if gathered.refused and not any(gathered.counts.values()):
        first = gathered.refused[0]
        raise DataError(f"nothing of it can be taken: {first.file}: {first.reason}")
    hand_on(gathered)
    return ImportReport(
        options.name, form, given.digest, {table: gathered.counts[table] for table in TABLES},
        {table: new[table] for table in TABLES}, gathered.faults(), tuple(gathered.refused),
    )  # fmt: skip


def _bring_release(db: Db, folder: Path, manifest: Manifest, options: ImportOptions) -> ImportReport:
    for model in manifest.subject_models:
        register_subject(db, SubjectInfo(**model.model_dump()))
    placed = {sae.sae_id: place_sae(db, SaeRecord(**sae.model_dump())) for sae in manifest.saes}
    for sae in manifest.saes:
        identity = placed[sae.sae_id]
        if identity.same_as is None:
            register_sae(db, replace(SaeRecord(**sae.model_dump()), sae_id=identity.sae_id))
        elif identity.joined and identity.same_as != sae.sae_id:
            remember_alias(db, sae.sae_id, identity.same_as, identity.why)
    names = tables_of(manifest.format_version)
    tables = {table: _batches(folder / f"{table}.parquet", placed) for table in names}
    rows = {table: manifest.files[f"{table}.parquet"].rows or 0 for table in names}
    new = add_tables(db, tables, names)
    for origin, provenance in manifest.provenance.items():
        record_origin(db, origin, release_digest(manifest), provenance)
    told = tuple(identity for sae_id, identity in placed.items() if identity.sae_id != sae_id)
    return ImportReport(options.name, "release", release_digest(manifest), rows, new, (), identities=told)


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


def _batches(path: Path, placed: Mapping[str, Identity]) -> Generator[ArrowTable, None, None]:
    with path.open("rb") as stream, pq.ParquetFile(stream) as file:
        schema = TABLES[path.stem]
        # Rows with an order of their own must be seen all at once for it to be kept.
        whole = "ordinal" in schema.names
        for batch in file.iter_batches(max(1, file.metadata.num_rows) if whole else 262_144):
            table = pa.Table.from_batches([batch])
            yield _renamed(table.cast(pa.schema([schema.field(n) for n in table.column_names])), placed)


def _renamed(batch: ArrowTable, placed: Mapping[str, Identity]) -> ArrowTable:
    """The batch with the names that the store has for its SAEs."""
    for old, identity in placed.items():
        if old == identity.sae_id or "sae_id" not in batch.column_names:
            continue
        theirs = _COMPUTE.equal(batch["sae_id"], old)
        if not identity.joined and "explanation_id" in batch.column_names:
            # An id is made of the SAE's name too: under the same one two SAEs' explanations would be one.
            ids = [content_id(f"{identity.sae_id}/{known}") for known in batch["explanation_id"].to_pylist()]
            batch = _with(
                batch, "explanation_id", _COMPUTE.if_else(theirs, pa.array(ids), batch["explanation_id"])
            )
        batch = _with(batch, "sae_id", _COMPUTE.if_else(theirs, identity.sae_id, batch["sae_id"]))
    return batch


def _with(batch: ArrowTable, name: str, column: Any) -> ArrowTable:
    return batch.set_column(batch.column_names.index(name), name, column)


def _digest(source: Path) -> str:
    """SHA-256 over a file, or over the names and contents of a folder's files."""
    if source.is_file():
        return file_digest(source)
    digest = hashlib.sha256()
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(source)}\0{file_digest(path)}\n".encode())
    return digest.hexdigest()

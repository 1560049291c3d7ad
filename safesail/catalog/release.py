"""Building a release: same store and options, same bytes."""

import hashlib
import os
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from safesail import __version__
from safesail.catalog.card import render_card
from safesail.catalog.config import ReleaseOptions
from safesail.catalog.format import (
    CARD,
    FORMAT_VERSION,
    MANIFEST,
    TABLES,
    Counts,
    FileEntry,
    Manifest,
    ModelEntry,
    SaeEntry,
)
from safesail.catalog.taxonomy import taxonomy
from safesail.errors import ConfigError, NotFoundError
from safesail.store.arrow import ArrowBatch, ArrowSchema, ArrowTable
from safesail.store.catalog import (
    ReleaseFilter,
    release_table,
    released,
    released_counts,
    released_models,
    released_origins,
    released_saes,
)
from safesail.store.connection import Db, open_reader

ROWS_A_GROUP = 65_536


def build_release(store: Path, out: Path, options: ReleaseOptions, *, quiet: bool = True) -> Manifest:
    """Write the catalog in `store` as a release: a folder, or a zip where `out` ends in `.zip`.

    Everything is written beside `out` and moved there at the end; a release that lies there is replaced.

    Raises:
        NotFoundError: the store holds no explained or tagged feature that fits the options.
        ConfigError: something that is no release lies at `out`, or a domain is unknown.
        StoreLockedError: a stage is writing to the store.
    """
    check_target(out)
    redacted = tuple(tag for domain in options.redact for tag in taxonomy().tags_of(domain))
    chosen = ReleaseFilter(options.name, redacted, options.min_score, options.exemplars)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = out.parent / f".{out.name}.{os.getpid()}.partial"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        with open_reader(store) as db, released(db, chosen):
            manifest = _write_folder(db, work, options, chosen, quiet=quiet)
        if out.suffix == ".zip":
            packed = work / "release.zip"
            zip_folder(work, packed, [*sorted(manifest.files), MANIFEST])
            packed.replace(out)
        else:
            move_into_place(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return manifest


def release_digest(manifest: Manifest) -> str:
    """SHA-256 that names a release: of its manifest, which holds the digests of all its files."""
    return hashlib.sha256(manifest.as_bytes()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def zip_folder(folder: Path, out: Path, names: Iterable[str]) -> None:
    """Pack files under plain names, uncompressed (Parquet is compressed), without times: same files, same bytes."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            with (folder / name).open("rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 2**20)


def check_target(out: Path) -> None:
    """Refuse to replace anything but a release.

    Raises:
        ConfigError: something else lies at `out`.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise ConfigError(f"{out} is a folder with other things in it; choose another --out")
    if out.is_file() and not zipfile.is_zipfile(out):
        raise ConfigError(f"{out} is a file that is no release; choose another --out")


def move_into_place(work: Path, out: Path) -> None:
    """Put the folder `work` at `out`, and what lay there away."""
    old = out.parent / f".{out.name}.{os.getpid()}.old"
    if out.exists():
        out.replace(old)
    work.replace(out)
    if old.is_dir():
        shutil.rmtree(old)


def write_parquet(path: Path, schema: ArrowSchema, batches: Iterable[ArrowBatch]) -> int:
    """Write batches in row groups of a fixed size, so that how they arrive does not show; returns the rows."""
    n_rows = 0
    held: list[ArrowTable] = []
    with pq.ParquetWriter(path, schema, compression="zstd", store_schema=False) as writer:
        for batch in batches:
            held.append(pa.Table.from_batches([batch]).select(schema.names).cast(schema))
            while sum(map(len, held)) >= ROWS_A_GROUP:
                whole = pa.concat_tables(held).combine_chunks()
                writer.write_table(whole.slice(0, ROWS_A_GROUP), row_group_size=ROWS_A_GROUP)
                held = [whole.slice(ROWS_A_GROUP)]
                n_rows += ROWS_A_GROUP
        rest = pa.concat_tables(held).combine_chunks() if held else schema.empty_table()
        if len(rest) or n_rows == 0:
            writer.write_table(rest, row_group_size=ROWS_A_GROUP)
    return n_rows + len(rest)


def _write_folder(
    db: Db, folder: Path, options: ReleaseOptions, chosen: ReleaseFilter, *, quiet: bool
) -> Manifest:
    counts = Counts.model_validate(released_counts(db))
    if counts.features == 0:
        what = (
            "no feature with that score"
            if options.min_score is not None
            else "no explained or tagged feature"
        )
        raise NotFoundError(f"{what} in the store; run `safesail explain` first, or import a catalog")
    files: dict[str, FileEntry] = {}
    for table, schema in tqdm(TABLES.items(), desc="release", unit="table", disable=quiet):
        path = folder / f"{table}.parquet"
        empty = table == "exemplars" and chosen.n_exemplars == 0
        n_rows = write_parquet(path, schema, () if empty else release_table(db, table, chosen))
        files[path.name] = FileEntry(sha256=file_digest(path), bytes=path.stat().st_size, rows=n_rows)
    manifest = _manifest(db, options, counts, files)
    card = folder / CARD
    card.write_text(render_card(manifest), encoding="utf-8")
    files = {**files, CARD: FileEntry(sha256=file_digest(card), bytes=card.stat().st_size)}
    manifest = manifest.model_copy(update={"files": dict(sorted(files.items()))})
    (folder / MANIFEST).write_bytes(manifest.as_bytes())
    return manifest


def _manifest(db: Db, options: ReleaseOptions, counts: Counts, files: dict[str, FileEntry]) -> Manifest:
    model_names, sae_names = tuple(ModelEntry.model_fields), tuple(SaeEntry.model_fields)
    return Manifest(
        format="safesail-catalog",
        format_version=FORMAT_VERSION,
        name=options.name,
        version=options.version,
        code_version=__version__,
        licence=options.licence,
        sensitivity=options.sensitivity,
        redacted=options.redact,
        min_score=options.min_score,
        subject_models=tuple(
            ModelEntry.model_validate(dict(zip(model_names, row, strict=True))) for row in released_models(db)
        ),
        saes=tuple(
            SaeEntry.model_validate(dict(zip(sae_names, row, strict=True))) for row in released_saes(db)
        ),
        origins=released_origins(db, options.name),
        counts=counts,
        files=files,
    )

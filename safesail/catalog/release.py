"""Building a release: same store and options, same bytes."""

import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

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
    file_digest,
)
from safesail.catalog.sae_files import take_saes
from safesail.catalog.verify import verify_folder
from safesail.concepts.taxonomy import taxonomy
from safesail.errors import ConfigError, NotFoundError
from safesail.files import restore, scratch_folder, whole_file, whole_folder
from safesail.store.arrow import ArrowBatch, ArrowSchema, ArrowTable
from safesail.store.catalog import ReleaseFilter, release_table, released, released_models, released_saes
from safesail.store.connection import open_reader
from safesail.store.imports import imported_from
from safesail.store.release import (
    effects_shown,
    open_release,
    release_counts,
    release_origins,
    score_summary,
)
from safesail.version import __version__

ROWS_PER_GROUP = 65_536


def build_release(store: Path, out: Path, options: ReleaseOptions, *, quiet: bool = True) -> Manifest:
    """Write the catalog in `store` as a release: a folder, or a zip where `out` ends in `.zip`.

    It appears whole, after it was verified; a release that is there is replaced in one step.

    Raises:
        NotFoundError: the store holds no explained or tagged feature that fits the options.
        ConfigError: something that is no release is at `out`, or a domain is unknown.
        StoreLockedError: a stage is writing to the store.
        DataError: `out` cannot be written, or the store holds a value that no release may have.
    """
    _check_target(out)
    if out.suffix != ".zip":
        with whole_folder(out, replace=True) as folder:
            return _write_folder(store, folder, options, quiet=quiet)
    with scratch_folder(out) as folder, whole_file(out) as packed:
        manifest = _write_folder(store, folder, options, quiet=quiet)
        _zip_folder(folder, packed, [*sorted(manifest.files), MANIFEST])
    return manifest


def _check_target(out: Path) -> None:
    """Refuse to replace anything but a release."""
    restore(out)
    if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise ConfigError(f"{out} is a folder with other things in it; choose another --out")
    if out.is_file() and not zipfile.is_zipfile(out):
        raise ConfigError(f"{out} is a file that is no release; choose another --out")


def _zip_folder(folder: Path, out: Path, names: Iterable[str]) -> None:
    """Pack files under plain names, uncompressed (Parquet is compressed), without times: same files, same bytes."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            with (folder / name).open("rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 2**20)


def _write_parquet(path: Path, schema: ArrowSchema, batches: Iterable[ArrowBatch]) -> int:
    """Write batches in row groups of a fixed size, so that how they arrive does not show; returns the rows."""
    n_rows = 0
    held: list[ArrowTable] = []
    with pq.ParquetWriter(path, schema, compression="zstd", store_schema=False) as writer:
        for batch in batches:
            held.append(pa.Table.from_batches([batch]).select(schema.names).cast(schema))
            while sum(map(len, held)) >= ROWS_PER_GROUP:
                whole = pa.concat_tables(held).combine_chunks()
                writer.write_table(whole.slice(0, ROWS_PER_GROUP), row_group_size=ROWS_PER_GROUP)
                held = [whole.slice(ROWS_PER_GROUP)]
                n_rows += ROWS_PER_GROUP
        rest = pa.concat_tables(held).combine_chunks() if held else schema.empty_table()
        if len(rest) or n_rows == 0:
            writer.write_table(rest, row_group_size=ROWS_PER_GROUP)
    return n_rows + len(rest)


def _write_folder(store: Path, folder: Path, options: ReleaseOptions, *, quiet: bool) -> Manifest:
    redacted = tuple(tag for domain in options.redact for tag in taxonomy().tags_of(domain))
    chosen = ReleaseFilter(options.name, redacted, options.min_score, options.exemplars)
    files: dict[str, FileEntry] = {}
    with open_reader(store) as db, released(db, chosen):
        for table, schema in tqdm(TABLES.items(), desc="release", unit="table", disable=quiet):
            path = folder / f"{table}.parquet"
            empty = table == "exemplars" and chosen.n_exemplars == 0
            n_rows = _write_parquet(path, schema, () if empty else release_table(db, table, chosen))
            files[path.name] = FileEntry(sha256=file_digest(path), bytes=path.stat().st_size, rows=n_rows)
        models = tuple(ModelEntry(**row) for row in released_models(db))
        saes = tuple(SaeEntry(**row) for row in released_saes(db))
        imported = imported_from(db)
    if not files["features.parquet"].rows:
        what = "explained or tagged feature" if options.min_score is None else "feature with that score"
        raise NotFoundError(f"no {what} in the store; run `safesail explain` first, or import a catalog")
    weights = take_saes(options.saes, saes, folder, licence=options.sae_licence)
    for name in (name for sae in weights for name in sae.files):
        files[name] = FileEntry(sha256=file_digest(folder / name), bytes=(folder / name).stat().st_size)
    with open_release(folder, [m.model_dump() for m in models], [s.model_dump() for s in saes]) as db:
        origins = release_origins(db)
        provenance = {origin: imported[origin] for origin in origins if origin in imported}
        manifest = Manifest(
            format="safesail-catalog",
            format_version=FORMAT_VERSION,
            name=options.name,
            version=options.version,
            code_version=__version__,
            licence=options.licence,
            sensitivity=options.sensitivity,
            redacted=options.redact,
            min_score=options.min_score,
            subject_models=models,
            saes=saes,
            origins=origins,
            counts=Counts(**release_counts(db)),
            files=files,
            weights=weights,
            provenance=provenance,
        )
        scores, effects = score_summary(db), effects_shown(db)
    card = folder / CARD
    card.write_text(render_card(manifest, scores, effects), encoding="utf-8")
    files[CARD] = FileEntry(sha256=file_digest(card), bytes=card.stat().st_size)
    manifest = manifest.model_copy(update={"files": dict(sorted(files.items()))})
    (folder / MANIFEST).write_bytes(manifest.as_bytes())
    return verify_folder(folder)

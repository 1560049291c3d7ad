"""Is a release whole, of this format, and true to its manifest?"""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from safesail.catalog.archive import unpack
from safesail.catalog.format import KEYS, MANIFEST, REQUIRED, TABLES, Manifest, read_manifest
from safesail.catalog.release import file_digest
from safesail.errors import ChecksumError, DataError, FingerprintError, NotFoundError
from safesail.store.arrow import ArrowBatch, ArrowSchema, ArrowTable
from safesail.store.arrow import compute as pc

Widths = Mapping[str, int | None]
"""d_sae by sae_id."""


def verify_release(path: Path) -> Manifest:
    """Check everything that can be checked without the model: digests, sizes, rows, types and contents.

    Args:
        path: A release's folder or zip.

    Raises:
        NotFoundError: no release there.
        SchemaVersionError: a newer format.
        ChecksumError: a file is missing, or differs from what the manifest says.
        FingerprintError: an index that its SAE does not have, or an SAE that the manifest does not name.
        DataError: a faulty manifest or table.
    """
    if path.is_dir():
        return verify_folder(path)
    if not path.is_file():
        raise NotFoundError(f"no catalog release at {path}")
    work = Path(tempfile.mkdtemp(prefix="safesail-verify-"))
    try:
        unpack(path, work)
        return verify_folder(work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def verify_folder(folder: Path) -> Manifest:
    """As `verify_release`, of a folder."""
    manifest = read_manifest(folder)
    _check_listing(folder, manifest)
    for name in manifest.files:
        _check_bytes(folder / name, manifest)
    widths: Widths = {sae.sae_id: sae.d_sae for sae in manifest.saes}
    for table in TABLES:
        _check_table(folder / f"{table}.parquet", table, manifest, widths)
    _check_references(folder)
    return manifest


def _check_listing(folder: Path, manifest: Manifest) -> None:
    """Nothing lies in the folder that the manifest does not name, and no link leads out of it."""
    for entry in sorted(folder.iterdir()):
        if entry.name in manifest.files or entry.name == MANIFEST:
            if entry.is_symlink() or not entry.is_file():
                raise DataError(f"{entry} must be a plain file")
        elif not entry.name.startswith("."):  # .gitattributes and the like of hosting sites
            raise DataError(f"{entry} is not in the manifest")


def _check_bytes(path: Path, manifest: Manifest) -> None:
    entry = manifest.files[path.name]
    if not path.is_file():
        raise ChecksumError(f"{path} is missing; download the release again")
    if path.stat().st_size != entry.bytes:
        raise ChecksumError(f"{path} has {path.stat().st_size:,} bytes, the manifest says {entry.bytes:,}")
    if file_digest(path) != entry.sha256:
        raise ChecksumError(f"{path} differs from its SHA-256 in the manifest; download the release again")


def _check_table(path: Path, table: str, manifest: Manifest, widths: Widths) -> None:
    try:
        # Opened by us: pyarrow must not look at a URI or at folders named like partitions.
        with path.open("rb") as stream, pq.ParquetFile(stream) as file:
            rows = file.metadata.num_rows
            if rows != manifest.files[path.name].rows:
                raise DataError(
                    f"{path} has {rows:,} rows, the manifest says {manifest.files[path.name].rows:,}"
                )
            _check_types(path, file.schema_arrow, TABLES[table])
            keys: list[ArrowTable] = []
            for batch in file.iter_batches(65_536):
                _check_batch(str(path), table, batch, widths)
                keys.append(pa.Table.from_batches([batch.select(list(KEYS[table]))]))
            _check_unique(str(path), KEYS[table], keys)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a sound Parquet file: {str(error).splitlines()[0]}") from error


def _check_types(path: Path, found: ArrowSchema, expected: ArrowSchema) -> None:
    if found.names != expected.names:
        odd = sorted(set(found.names) ^ set(expected.names)) or found.names
        raise DataError(f"{path} has not the columns of the format; look at {odd[0]!r}")
    for field in expected:
        if not _same(found.field(field.name).type, field.type):
            kind = found.field(field.name).type
            raise DataError(f"{path}: column {field.name!r} is {kind}, the format has {field.type}")


def _same(found: Any, expected: Any) -> bool:
    """Equal, whatever a list calls its items."""
    if pa.types.is_list(found) and pa.types.is_list(expected):
        return _same(found.value_type, expected.value_type)
    return found.equals(expected)


def _check_batch(where: str, table: str, batch: ArrowBatch, widths: Widths) -> None:
    for name in REQUIRED[table]:
        if batch.column(name).null_count:
            raise DataError(f"{where}: column {name!r} has empty cells")
    for field in batch.schema:
        if pa.types.is_floating(field.type) and _any(pc.invert(pc.is_finite(batch.column(field.name)))):
            raise DataError(f"{where}: column {field.name!r} holds NaN or an infinite number")
    if "sae_id" in batch.schema.names:
        _check_features(where, batch, widths)
    if check := _CONTENT.get(table):
        check(where, batch)


def _check_features(where: str, batch: ArrowBatch, widths: Widths) -> None:
    index = batch.column("index")
    for sae_id in pc.unique(batch.column("sae_id")).to_pylist():
        if sae_id not in widths:
            raise FingerprintError(f"{where}: SAE {sae_id!r} is not in the manifest")
        mine = index.filter(pc.equal(batch.column("sae_id"), sae_id))
        low, high = pc.min(mine).as_py(), pc.max(mine).as_py()
        width = widths[sae_id]
        if low < 0 or (width is not None and high >= width):
            bad = low if low < 0 else high
            raise FingerprintError(f"{where}: {sae_id!r} has no feature {bad}; its width is {width}")


def _check_explanations(where: str, batch: ArrowBatch) -> None:
    if _any(pc.and_(batch.column("masked"), pc.is_valid(batch.column("text")))):
        raise DataError(f"{where}: an explanation is marked as masked and has a text")
    if _any(pc.and_(pc.is_valid(batch.column("error")), pc.is_valid(batch.column("text")))):
        raise DataError(f"{where}: an explanation has both a text and an error")


def _check_scores(where: str, batch: ArrowBatch) -> None:
    for name in ("value", "low", "high", "chance"):
        if _any(pc.greater(pc.abs(batch.column(name)), 1.0 + 1e-9)):
            raise DataError(f"{where}: column {name!r} is a correlation and must lie in [-1, 1]")
    for name in ("auc", "balanced_accuracy"):
        column = batch.column(name)
        if _any(pc.or_(pc.less(column, 0.0), pc.greater(column, 1.0))):
            raise DataError(f"{where}: column {name!r} must lie in [0, 1]")
    said = pc.or_(pc.is_valid(batch.column("reason")), pc.is_valid(batch.column("error")))
    if _any(pc.and_(pc.is_null(batch.column("value")), pc.invert(said))):
        raise DataError(f"{where}: a score has neither a value nor a reason")


def _check_exemplars(where: str, batch: ArrowBatch) -> None:
    lengths = pc.list_value_length(batch.column("tokens")), pc.list_value_length(batch.column("activations"))
    if _any(pc.not_equal(*lengths)):
        raise DataError(f"{where}: an exemplar has not one activation a token")
    values = pc.list_flatten(batch.column("activations"))
    if values.null_count or _any(pc.invert(pc.is_finite(values))):
        raise DataError(f"{where}: an exemplar has an activation that is no number")
    if _any(pc.invert(pc.is_in(batch.column("split"), pa.array(["train", "calibration", "test"])))):
        raise DataError(f"{where}: column 'split' must be train, calibration or test")


def _check_density(where: str, batch: ArrowBatch) -> None:
    density = batch.column("density")
    if _any(pc.or_(pc.less(density, 0.0), pc.greater(density, 1.0))):
        raise DataError(f"{where}: column 'density' must lie in [0, 1]")


_CONTENT: dict[str, Callable[[str, ArrowBatch], None]] = {
    "features": _check_density,
    "explanations": _check_explanations,
    "scores": _check_scores,
    "exemplars": _check_exemplars,
}


def _check_unique(where: str, names: tuple[str, ...], parts: list[ArrowTable]) -> None:
    if not parts:
        return
    table = pa.concat_tables(parts)
    if table.group_by(list(names)).aggregate([]).num_rows != table.num_rows:
        raise DataError(f"{where}: a row is there twice by {', '.join(names)}")


def _check_references(folder: Path) -> None:
    """Every row belongs to a feature that is there, and every score to its explanation."""

    def keys(table: str, names: list[str]) -> ArrowTable:
        with (folder / f"{table}.parquet").open("rb") as stream:
            return pq.read_table(stream, columns=names).group_by(names).aggregate([])

    feature, explanation = ["sae_id", "index"], ["explanation_id", "sae_id", "index"]
    features = keys("features", feature)
    for table in ("explanations", "tags", "exemplars", "feature_concepts"):
        if (lost := keys(table, feature).join(features, feature, join_type="left anti")).num_rows:
            raise DataError(f"{folder / table}.parquet: {_shown(lost)} is not in features.parquet")
    lost = keys("scores", explanation).join(
        keys("explanations", explanation), explanation, join_type="left anti"
    )
    if lost.num_rows:
        raise DataError(f"{folder / 'scores'}.parquet: the explanation of {_shown(lost)} is not there")


def _shown(table: ArrowTable) -> str:
    row = table.slice(0, 1).to_pylist()[0]
    return f"{row['sae_id']}#{row['index']}"


def _any(condition: Any) -> bool:
    return bool(pc.any(condition).as_py())

"""The format of a catalog release: its tables and its manifest. A public interface: never changed in place.

A release is a folder, or the same zipped: manifest.json, README.md and one Parquet file per table.
"""

import hashlib
import re
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, ValidationError

from safesail.catalog.reading import parse_json
from safesail.domain.config import Config
from safesail.errors import DataError, NotFoundError, SchemaVersionError
from safesail.sae.settings import CONFIG, WEIGHTS
from safesail.store.arrow import ArrowSchema

FORMAT_VERSION = 3
"""3 has what features do, in `effects`. 2 has the look-up baseline beside every score, may have SAEs besides, a folder
each below `saes/`, and says where explanations of others came from. Releases of both and of 1 are read as they are."""

SAE_FORMAT = 2
"""The first that may have SAEs and provenance."""

MANIFEST = "manifest.json"
CARD = "README.md"
MAX_MANIFEST_BYTES = 16 * 2**20
MAX_ROWS = 200_000_000
"""Most rows that one table of a release may claim."""

MAX_INT = 2**31 - 1
"""Largest number of an INTEGER column: no width or k is larger."""

MAX_LAYERS = 10_000
"""No model has as many."""

SAE_FOLDER = r"^saes/[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
SAE_FILE = re.compile(r"saes/[A-Za-z0-9][A-Za-z0-9._-]{0,99}/(?:cfg\.json|sae_weights\.safetensors)")
"""The only names with folders in them."""

_SHA256 = r"^[0-9a-f]{64}$"
_STRINGS = pa.list_(pa.string())
_KEY = (("sae_id", pa.string()), ("index", pa.int32()))


def _schema(*fields: tuple[str, Any]) -> ArrowSchema:
    return pa.schema([pa.field(name, kind) for name, kind in fields])


TABLES: dict[str, ArrowSchema] = {
    "features": _schema(
        *_KEY,
        ("layer", pa.int32()),
        ("n_tokens", pa.int64()),
        ("n_active", pa.int64()),
        ("density", pa.float64()),
        ("mean", pa.float64()),
        ("maximum", pa.float64()),
        ("q90", pa.float64()),
        ("q99", pa.float64()),
        ("q999", pa.float64()),
        ("top_tokens", _STRINGS),
        ("redacted", pa.bool_()),
    ),
    "explanations": _schema(
        ("explanation_id", pa.string()),
        *_KEY,
        ("text", pa.string()),
        ("masked", pa.bool_()),
        ("lang", pa.string()),
        ("explainer", pa.string()),
        ("prompt_hash", pa.string()),
        ("origin", pa.string()),
        ("confidence", pa.float64()),
        ("error", pa.string()),
        ("message", pa.string()),
        ("ordinal", pa.int64()),
    ),
    "tags": _schema(
        *_KEY,
        ("position", pa.int32()),
        ("tag", pa.string()),
        ("source", pa.string()),
        ("severity", pa.int32()),
    ),
    "scores": _schema(
        ("explanation_id", pa.string()),
        *_KEY,
        ("method", pa.string()),
        ("simulator", pa.string()),
        ("prompt_hash", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("chance", pa.float64()),
        ("auc", pa.float64()),
        ("balanced_accuracy", pa.float64()),
        ("n_units", pa.int32()),
        ("n_windows", pa.int32()),
        ("reason", pa.string()),
        ("error", pa.string()),
        ("tokens", pa.int64()),
        ("ordinal", pa.int64()),
        ("lookup", pa.float64()),
        ("gain_low", pa.float64()),
        ("gain_high", pa.float64()),
    ),
    "exemplars": _schema(
        *_KEY,
        ("rank", pa.int32()),
        ("split", pa.string()),
        ("document_id", pa.string()),
        ("start", pa.int32()),
        ("maximum", pa.float32()),
        ("tokens", _STRINGS),
        ("activations", pa.list_(pa.float32())),
    ),
    "concepts": _schema(
        ("concept_id", pa.string()),
        ("domain", pa.string()),
        ("leaf", pa.string()),
        ("name", pa.string()),
        ("definition", pa.string()),
    ),
    "feature_concepts": _schema(
        *_KEY,
        ("concept_id", pa.string()),
        ("selection_id", pa.string()),
        ("frequency", pa.float64()),
        ("swapped", pa.float64()),
        ("n_pairs", pa.int32()),
    ),
    "effects": _schema(
        *_KEY,
        ("condition", pa.string()),
        ("texts", pa.string()),
        ("measure", pa.string()),
        ("expected", pa.int32()),
        ("value", pa.float64()),
        ("null_value", pa.float64()),
        ("random_value", pa.float64()),
        ("gain_low", pa.float64()),
        ("gain_high", pa.float64()),
        ("null_values", pa.list_(pa.float64())),
        ("p", pa.float64()),
        ("q", pa.float64()),
        ("strength", pa.float64()),
        ("cost", pa.float64()),
        ("n_texts", pa.int32()),
        ("tokens", _STRINGS),
        ("reason", pa.string()),
        ("seed", pa.int64()),
        ("settings", pa.string()),
        ("settings_hash", pa.string()),
        ("fingerprint", pa.string()),
        ("sae_sha256", pa.string()),
        ("texts_id", pa.string()),
    ),
}
"""Columns of every table; `index` is the feature's row of `W_dec`."""

ADDED: dict[str, dict[str, int]] = {"scores": {"lookup": 2, "gain_low": 2, "gain_high": 2}}
"""Columns that came later, by the version that has them first; earlier ones lack them."""


FIRST_IN: dict[str, int] = {"effects": 3}
"""Tables that came later, by the version that has them first."""


def tables_of(version: int) -> tuple[str, ...]:
    """The tables of a version of the format, in order."""
    return tuple(table for table in TABLES if FIRST_IN.get(table, 1) <= version)


def columns_of(table: str, version: int) -> ArrowSchema:
    """The columns of a table in a version of the format."""
    added = ADDED.get(table, {})
    return pa.schema([field for field in TABLES[table] if added.get(field.name, 1) <= version])


REQUIRED: dict[str, tuple[str, ...]] = {
    "features": ("sae_id", "index", "redacted"),
    "explanations": ("explanation_id", "sae_id", "index", "masked", "lang", "explainer", "origin", "ordinal"),
    "tags": ("sae_id", "index", "position", "tag", "source"),
    "scores": ("explanation_id", "sae_id", "index", "method", "simulator", "ordinal"),
    "exemplars": (
        "sae_id",
        "index",
        "rank",
        "split",
        "document_id",
        "start",
        "maximum",
        "tokens",
        "activations",
    ),
    "concepts": ("concept_id", "domain", "name", "definition"),
    "feature_concepts": ("sae_id", "index", "concept_id", "selection_id", "frequency", "swapped", "n_pairs"),
    "effects": (
        "sae_id",
        "index",
        "condition",
        "texts",
        "measure",
        "expected",
        "n_texts",
        "seed",
        "settings",
        "settings_hash",
        "fingerprint",
        "sae_sha256",
        "texts_id",
    ),
}
"""Columns that are never null."""

KEYS: dict[str, tuple[str, ...]] = {
    "features": ("sae_id", "index"),
    "explanations": ("explanation_id",),
    "tags": ("sae_id", "index", "tag", "source"),
    "scores": ("explanation_id", "method", "simulator"),
    "exemplars": ("sae_id", "index", "rank"),
    "concepts": ("concept_id",),
    "feature_concepts": ("sae_id", "index", "concept_id", "selection_id"),
    "effects": ("sae_id", "index", "condition", "texts", "measure", "settings_hash"),
}
"""Columns that together are never repeated."""


class FileEntry(Config):
    """One file of a release."""

    sha256: str = Field(pattern=_SHA256)
    bytes: int = Field(ge=0)
    rows: int | None = Field(default=None, ge=0, le=MAX_ROWS)
    """Rows of a table; None for a file that is none."""


class ModelEntry(Config):
    """A subject model."""

    model_id: str
    fingerprint: str | None
    """SHA-256 of configuration and weights; None where the source did not say."""

    d_model: int | None = Field(gt=0, le=MAX_INT)
    n_layers: int | None = Field(gt=0, le=MAX_LAYERS)


class SaeEntry(Config):
    """An SAE whose features are explained."""

    sae_id: str
    model_id: str
    hook: str
    layer: int | None = Field(ge=0, lt=MAX_LAYERS)
    d_in: int | None = Field(gt=0, le=MAX_INT)
    d_sae: int | None = Field(gt=0, le=MAX_INT)
    architecture: str | None
    k: int | None = Field(gt=0, le=MAX_INT)
    sha256: str | None
    source: str


class WeightsEntry(Config):
    """An SAE that comes along: `cfg.json` and `sae_weights.safetensors`, as SAELens reads them."""

    sae_id: str
    folder: str = Field(pattern=SAE_FOLDER)
    licence: str
    """SPDX name, as the SAE's own card or its releaser says."""

    @property
    def files(self) -> tuple[str, str]:
        """Names within the release."""
        return (f"{self.folder}/{CONFIG}", f"{self.folder}/{WEIGHTS}")


class Counts(Config):
    """What is in a release, failures included."""

    features: int = Field(ge=0)
    explained: int = Field(ge=0)
    """Features with at least one explanation that can be read."""

    masked: int = Field(ge=0)
    """Explanations whose text is withheld, here or by their source."""

    failed: int = Field(ge=0)
    """Explanations that were tried and failed."""

    scored: int = Field(ge=0)
    undefined: int = Field(ge=0)
    """Scores that these texts do not define."""

    mean_score: float | None = Field(allow_inf_nan=False)
    mean_chance: float | None = Field(allow_inf_nan=False)
    """Mean over the scores that have one of the same figure with another feature's explanation."""

    tagged: int = Field(ge=0)
    mean_lookup: float | None = Field(default=None, allow_inf_nan=False)
    """Mean over the scores that have one of the same figure for a look-up; None in releases of version 1."""

    beyond_lookup: int | None = Field(default=None, ge=0)
    below_lookup: int | None = Field(default=None, ge=0)
    """Scores that are larger, and smaller, than a look-up's by more than their interval; None as before."""


class Manifest(Config):
    """manifest.json: what a release holds, and the digests of all its files."""

    format: Literal["safesail-catalog"]
    format_version: int = Field(ge=1)
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    version: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,49}$")
    code_version: str
    licence: str
    sensitivity: str
    redacted: tuple[str, ...]
    """Domains whose texts are masked."""

    min_score: float | None = Field(allow_inf_nan=False)
    subject_models: tuple[ModelEntry, ...]
    saes: tuple[SaeEntry, ...]
    origins: dict[str, int]
    """Explanations by where they came from."""

    counts: Counts
    files: dict[str, FileEntry]
    weights: tuple[WeightsEntry, ...] = ()
    """SAEs that come along; none in version 1."""

    provenance: dict[str, dict[str, str]] = Field(default_factory=dict)
    """By origin of explanations: source, address and licence of the catalog they came from; none in version 1."""

    def as_bytes(self) -> bytes:
        """The manifest as it is written; its SHA-256 names the release."""
        left_out = {name for name in ("weights", "provenance") if not getattr(self, name)}
        return (self.model_dump_json(indent=2, exclude=left_out) + "\n").encode()


def release_digest(manifest: Manifest) -> str:
    """SHA-256 that names a release: of its manifest, which holds the digests of all its files."""
    return hashlib.sha256(manifest.as_bytes()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def parse_manifest(content: bytes, where: str) -> Manifest:
    """Check the text of a manifest.

    Raises:
        SchemaVersionError: a newer format.
        DataError: not a manifest, or a faulty one.
    """
    if len(content) > MAX_MANIFEST_BYTES:
        raise DataError(f"{where} has {len(content):,} bytes, which no manifest has")
    value = parse_json(content, where)
    if not isinstance(value, dict) or value.get("format") != "safesail-catalog":
        raise DataError(f"{where} is not the manifest of a Safe-SAIL catalog release")
    version = value.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise SchemaVersionError(
            f"{where} has format {version}, this version reads {FORMAT_VERSION}; upgrade safesail"
        )
    try:
        manifest = Manifest.model_validate_json(content, strict=True)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        raise DataError(f"{where} is faulty: {faults}") from error
    _check_files(manifest, where)
    _check_saes(manifest, where)
    return manifest


def read_manifest(release: Path) -> Manifest:
    """The manifest in the folder `release`.

    Raises:
        NotFoundError: there is none.
        DataError: it is faulty.
    """
    path = release / MANIFEST
    if path.is_symlink() or not path.is_file():
        raise NotFoundError(f"no catalog release at {release}: it holds no {MANIFEST}")
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise DataError(f"{path} has {path.stat().st_size:,} bytes, which no manifest has")
    return parse_manifest(path.read_bytes(), str(path))


def plain(text: str) -> str:
    """What a stranger's file calls something, quoted and on one line."""
    return repr(re.sub(r"[^ -~]", "?", text)[:60])


def _check_files(manifest: Manifest, where: str) -> None:
    """The files listed are those of the format, under plain names."""
    tables = {f"{name}.parquet" for name in tables_of(manifest.format_version)}
    expected = {CARD, *tables, *(name for sae in manifest.weights for name in sae.files)}
    if manifest.format_version < SAE_FORMAT and (manifest.weights or manifest.provenance):
        raise DataError(f"{where}: format {manifest.format_version} has neither SAEs nor provenance")
    if unknown := sorted(set(manifest.files) - expected):
        raise DataError(
            f"{where} lists {plain(unknown[0])}, which format {manifest.format_version} does not have"
        )
    if missing := sorted(expected - set(manifest.files)):
        raise DataError(f"{where} does not list {missing[0]}")
    for name, entry in manifest.files.items():
        if (entry.rows is None) == (name in tables):
            raise DataError(f"{where}: files.{name}.rows must be a number for a table, and null otherwise")


def _check_saes(manifest: Manifest, where: str) -> None:
    """SAEs and models are listed once, and fit together."""
    saes, models = [s.sae_id for s in manifest.saes], [m.model_id for m in manifest.subject_models]
    for what, ids in (("an SAE", saes), ("a subject model", models)):
        if len(set(ids)) != len(ids):
            raise DataError(f"{where} lists {what} twice")
    coming = [sae.sae_id for sae in manifest.weights]
    if len(set(coming)) != len(coming) or len({sae.folder for sae in manifest.weights}) != len(coming):
        raise DataError(f"{where} lists the weights of an SAE twice")
    if lost := sorted(set(coming) - set(saes)):
        raise DataError(f"{where} has weights of SAE {plain(lost[0])}, which it does not list")
    for sae in manifest.saes:
        if sae.model_id not in models:
            raise DataError(f"{where} does not list the subject model of SAE {plain(sae.sae_id)}")
        if sae.k is not None and sae.d_sae is not None and sae.k > sae.d_sae:
            raise DataError(f"{where}: SAE {plain(sae.sae_id)} has k {sae.k:,} above its width {sae.d_sae:,}")

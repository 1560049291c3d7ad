"""What a harvest writes: its plan, its shards, and its activations sorted by feature."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from safesail.domain.records import SaeInfo, SubjectInfo
from safesail.errors import ConfigError
from safesail.store import staging
from safesail.store.bulk import Column, insert
from safesail.store.histogram import Histogram
from safesail.store.ranges import in_turn
from safesail.store.registry import register_sae, register_subject
from safesail.store.runs import Merged, Run, RunReader
from safesail.store.sql import Db, one, rows, transaction, value
from safesail.store.statistics import FeatureMeasure, FeatureRows, write_features
from safesail.store.top_tokens import token_codes

Precision = Literal["f32", "u8"]

STAGING = 2
"""Kind of the files beside the store: part of a harvest's settings, which tells those of earlier versions apart."""

_SAE_TABLES = ("activations_f32", "activations_u8", "activation_scales", "harvest_saes")


@dataclass(frozen=True)
class HarvestRecord:
    """A harvest as the store knows it."""

    key: int
    sae_keys: dict[str, int]
    """Short keys by sae_id."""

    finished: bool
    settings: dict[str, Any]
    shards: dict[int, str]
    """Content hash of every shard that is stored."""

    n_windows: int
    n_tokens: int


@dataclass(frozen=True)
class HarvestedShard:
    """A shard as it goes into the store."""

    number: int
    content: str
    """Hash of its document ids, in order."""

    n_tokens: int
    documents: Mapping[str, Column]
    windows: Mapping[str, Column]
    first_slot: int
    """Number of its first token slot in the harvest."""

    nonzeros: Mapping[int, Run]
    """Those that are kept, by sae_key."""

    dropped: Mapping[int, Histogram]
    """Histograms of the others, by sae_key; empty where all are kept."""


def open_harvest(
    db: Db,
    harvest_id: str,
    subject: SubjectInfo,
    saes: Sequence[SaeInfo],
    settings: Mapping[str, Any],
    *,
    replace: bool,
) -> HarvestRecord:
    """Find the harvest `harvest_id`, or begin it.

    Raises:
        ConfigError: one of the SAEs has another harvest in this store, and `replace` is off.
        FingerprintError: the store knows another model or SAE under these names.
    """
    with transaction(db):
        register_subject(db, subject)
        keys = {sae.sae_id: register_sae(db, sae) for sae in saes}
    known = one(db, "SELECT harvest_key FROM harvests WHERE harvest_id = ?", [harvest_id])
    if known is not None:  # unless one of its SAEs was given to another harvest since
        held = rows(db, "SELECT sae_key FROM harvest_saes WHERE harvest_key = ?", [known[0]])
        if {int(r[0]) for r in held} == set(keys.values()):
            record = read_harvest(db, int(known[0]), keys)
            if not _of_another_kind(record):
                return record
            if not replace:
                raise ConfigError(
                    "this harvest was begun by another version of Safe-SAIL, whose files this one does not read; "
                    "end it with that version, or start again with --replace"
                )
    if not replace:
        _check_free(db, keys, settings)
    drop_harvests(db, keys)
    key = int(value(db, "SELECT nextval('harvest_keys')"))
    with transaction(db):
        db.execute(
            "INSERT INTO harvests VALUES (?, ?, ?, ?, ?, ?, false)",
            [key, harvest_id, subject.model_id, subject.fingerprint,
             json.dumps({**settings, "staging": STAGING}, sort_keys=True), settings["n_ctx"]],
        )  # fmt: skip
        insert(db, "harvest_saes", {"sae_key": list(keys.values()), "harvest_key": [key] * len(keys)})
    return read_harvest(db, key, keys)


def _of_another_kind(record: HarvestRecord) -> bool:
    return bool(record.shards) and not record.finished and record.settings.get("staging") != STAGING


def read_harvest(db: Db, key: int, sae_keys: dict[str, int]) -> HarvestRecord:
    """The harvest's progress."""
    done = rows(db, "SELECT shard, content, n_windows, n_tokens FROM shards WHERE harvest_key = ?", [key])
    plan = one(db, "SELECT finished, settings FROM harvests WHERE harvest_key = ?", [key])
    assert plan is not None, f"harvest {key}"
    return HarvestRecord(
        key=key,
        sae_keys=sae_keys,
        finished=bool(plan[0]),
        settings=json.loads(plan[1]),
        shards={int(r[0]): str(r[1]) for r in done},
        n_windows=sum(int(r[2]) for r in done),
        n_tokens=sum(int(r[3]) for r in done),
    )


def set_sizes(
    db: Db, record: HarvestRecord, *, shard_tokens: int, batch_tokens: int | Literal["auto"] | None
) -> None:
    """Remember the sizes that fit, so that a resumed harvest cuts the same shards and computes in like batches."""
    settings = {**record.settings, "shard_tokens": shard_tokens, "batch_tokens": batch_tokens}
    with transaction(db):
        db.execute(
            "UPDATE harvests SET settings = ? WHERE harvest_key = ?",
            [json.dumps(settings, sort_keys=True), record.key],
        )


def write_shard(db: Db, key: int, shard: HarvestedShard) -> None:
    """Store a shard: all of it, or nothing that counts.

    Raises:
        DataError: the disk is full, or the store cannot be written; the shards before stay.
    """
    folder = _staging_dir(db, key)
    staging.write_shard_file(folder, shard.number, shard.first_slot, shard.nonzeros, shard.dropped)
    with transaction(db):
        n_documents = insert(db, "documents", shard.documents)
        n_windows = insert(db, "windows", shard.windows)
        db.execute(
            "INSERT INTO shards VALUES (?, ?, ?, ?, ?, ?)",
            [key, shard.number, shard.content, n_documents, n_windows, shard.n_tokens],
        )


def dropped_histograms(db: Db, record: HarvestRecord) -> staging.DroppedHistograms:
    """Histograms of this harvest's nonzeros that are not kept."""
    return staging.DroppedHistograms(_staging_dir(db, record.key), list(record.sae_keys.values()))


def finish_harvest(db: Db, record: HarvestRecord, d_sae: Mapping[str, int], precision: Precision) -> None:
    """Sort activations by feature into the store, compute every feature's statistics, and mark it as finished.

    Args:
        db: The open store.
        record: The harvest, all of whose shards are stored.
        d_sae: Number of features of every SAE, so that features that never fired have a row too.
        precision: Of the stored values: exact, or one byte.

    Raises:
        DataError: the disk is full, or shards are missing; what is stored so far is kept.
    """
    folder = _staging_dir(db, record.key)
    files = staging.shard_files(folder, record.shards)
    dropped = dropped_histograms(db, record)
    with transaction(db):  # of a run that was killed here
        for table in ("activations_f32", "activations_u8", "activation_scales"):
            db.execute(
                f"DELETE FROM {table} WHERE list_contains(?, sae_key)", [list(record.sae_keys.values())]
            )
    with token_codes(db, record.key, folder) as strings:
        for sae_id, key in record.sae_keys.items():
            reader = RunReader(files, str(key), d_sae[sae_id])
            measure = FeatureMeasure(dropped.total(record.shards, key), d_sae[sae_id], strings)
            _store_sae(db, record, (sae_id, key), reader, (measure, precision))
    with transaction(db):
        db.execute("UPDATE harvests SET finished = true WHERE harvest_key = ?", [record.key])
    db.execute("CHECKPOINT")
    staging.clear(folder)


def _store_sae(
    db: Db,
    record: HarvestRecord,
    sae: tuple[str, int],
    reader: RunReader,
    how: tuple[FeatureMeasure, Precision],
) -> None:
    """Bring one SAE's activations and statistics into the store, a range of features at a time.

    While the store takes one range in, the next is merged and measured. Tokens go up within a feature only;
    `feature * stride + token` goes up throughout, in small steps.
    """
    sae_id, sae_key = sae
    measure, precision = how
    stride = record.n_windows * int(record.settings["n_ctx"])

    def prepare(number: int) -> tuple[dict[str, Column], FeatureRows]:
        merged = reader.read(number)
        features = measure(merged)
        return _activation_columns(merged, features, stride, precision), features

    measured: list[FeatureRows] = []
    with ThreadPoolExecutor(1, "merge") as ahead:
        for columns, features in in_turn(ahead, prepare, len(reader.ranges)):
            constants = {"sae_key": sae_key, "stride": stride}
            with transaction(db):  # one each: DuckDB holds 16 bytes per row that is not committed
                insert(db, f"activations_{precision}", columns, constants=constants)
            measured.append(features)
    with transaction(db):
        if precision == "u8":
            scales = {
                "feature": np.concatenate([f.active for f in measured]),
                "maximum": np.concatenate([f.maximum for f in measured]),
            }
            insert(db, "activation_scales", scales, constants={"sae_key": sae_key})
        write_features(db, record.key, sae_id, record.n_tokens, measured)


def _activation_columns(
    merged: Merged, features: FeatureRows, stride: int, precision: Precision
) -> dict[str, Column]:
    sort_key = merged.feature.astype(np.int64)
    sort_key *= stride
    sort_key += merged.token
    columns: dict[str, Column] = {"feature": merged.feature, "sort_key": sort_key}
    if precision == "f32":
        return {**columns, "value": merged.value}
    # Levels at (code + 0.5) / 255.5 of the maximum: no nonzero becomes 0, the maximum is exact, and the largest error
    # is maximum / 511.
    maximum = features.maximum[np.searchsorted(features.active, merged.feature)].astype(np.float64)
    code = np.maximum(np.round(merged.value / maximum * 255.5 - 0.5), 0)
    return {**columns, "code": code.astype(np.uint8)}


def clear_staging(db: Db, record: HarvestRecord) -> None:
    """Remove what a run that was killed in its last moment left beside the store."""
    staging.clear(_staging_dir(db, record.key))


def _staging_dir(db: Db, key: int) -> Path:
    return staging.staging_dir(db, "harvest") / str(key)


def _check_free(db: Db, sae_keys: Mapping[str, int], settings: Mapping[str, Any]) -> None:
    harvested = rows(
        db,
        "SELECT sae_id, settings FROM saes JOIN harvest_saes USING (sae_key) JOIN harvests USING (harvest_key)"
        " SEMI JOIN shards USING (harvest_key) WHERE list_contains(?, sae_key) ORDER BY 1",
        [list(sae_keys.values())],
    )
    if harvested:
        raise ConfigError(
            f"{harvested[0][0]} was harvested into this store from other text or with other settings"
            f"{_differences(json.loads(harvested[0][1]), settings)}; "
            "use another --store, or --replace to drop that harvest"
        )


def _differences(stored: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Which settings differ, for people; what is not known of the stored harvest is left out."""
    differ = [
        f"{name} {stored[name]}, now {settings[name]}"
        for name in settings
        if name in stored
        and stored[name] != settings[name]
        and name not in ("batch_tokens", "memory_gb")
        and settings[name] is not None
    ]
    return f" ({', '.join(differ)})" if differ else ""


def drop_harvests(db: Db, sae_keys: Mapping[str, int]) -> None:
    """Drop what harvests stored of these SAEs, and harvests that are left without any SAE."""
    keys = list(sae_keys.values())
    with transaction(db):
        for table in _SAE_TABLES:
            db.execute(f"DELETE FROM {table} WHERE list_contains(?, sae_key)", [keys])
        # Imported features stay until the new harvest's statistics replace them.
        db.execute(
            "DELETE FROM features WHERE list_contains(?, sae_id) AND harvest_key IS NOT NULL",
            [list(sae_keys)],
        )
        left = rows(db, "SELECT harvest_key FROM harvests ANTI JOIN harvest_saes USING (harvest_key)")
        gone = [int(r[0]) for r in left]
        for table in ("documents", "windows", "shards", "harvests"):
            db.execute(f"DELETE FROM {table} WHERE list_contains(?, harvest_key)", [gone])
    for key in gone:
        staging.clear(_staging_dir(db, key))


def empty_splits(db: Db, record: HarvestRecord) -> tuple[str, ...]:
    """Of `train` and `test`, those of which the harvest has no document."""
    held = {
        r[0] for r in rows(db, "SELECT DISTINCT split FROM documents WHERE harvest_key = ?", [record.key])
    }
    return tuple(split for split in ("train", "test") if split not in held)


def count_stored(db: Db, record: HarvestRecord) -> tuple[int, int]:
    """Documents and nonzeros that the store holds of a harvest."""
    keys = list(record.sae_keys.values())
    documents = value(db, "SELECT count(*) FROM documents WHERE harvest_key = ?", [record.key])
    nonzeros = value(db, "SELECT count(*) FROM activations WHERE list_contains(?, sae_key)", [keys])
    return int(documents), int(nonzeros)

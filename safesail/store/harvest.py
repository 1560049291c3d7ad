"""What a harvest writes: its plan, its shards, and its activations sorted by feature."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safesail.domain.records import SaeInfo, SubjectInfo
from safesail.errors import ConfigError
from safesail.store import staging
from safesail.store.bulk import Column, insert
from safesail.store.ranges import feature_counts, feature_ranges
from safesail.store.registry import register_sae, register_subject
from safesail.store.sql import Db, one, rows, transaction, value
from safesail.store.statistics import Middle, merge_bins, write_features
from safesail.store.top_tokens import token_codes

Precision = Literal["f32", "u8"]

BINS_PER_MERGE = 250_000
"""Rows of histograms that shards bring at least before they are added up."""

_SAE_TABLES = ("activations_f32", "activations_u8", "activation_scales", "activation_bins", "harvest_saes")
_ROWS_PER_SORT = 1_000_000
_SORTS_AT_MOST = 64


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
    nonzeros: Mapping[int, Mapping[str, Column]]
    """By sae_key: feature, token, value; sorted by feature, then token."""

    bins: Mapping[int, Mapping[str, Column]]
    """By sae_key."""


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
            return read_harvest(db, int(known[0]), keys)
    if not replace:
        _check_free(db, keys)
    drop_harvests(db, keys)
    key = int(value(db, "SELECT nextval('harvest_keys')"))
    with transaction(db):
        db.execute(
            "INSERT INTO harvests VALUES (?, ?, ?, ?, ?, ?, false)",
            [key, harvest_id, subject.model_id, subject.fingerprint,
             json.dumps(settings, sort_keys=True), settings["n_ctx"]],
        )  # fmt: skip
        insert(db, "harvest_saes", {"sae_key": list(keys.values()), "harvest_key": [key] * len(keys)})
    return read_harvest(db, key, keys)


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


def set_batch_tokens(db: Db, record: HarvestRecord, batch_tokens: int) -> None:
    """Remember the batch size that fits, so that a resumed harvest computes in the same batches."""
    settings = json.dumps({**record.settings, "batch_tokens": batch_tokens}, sort_keys=True)
    with transaction(db):
        db.execute("UPDATE harvests SET settings = ? WHERE harvest_key = ?", [settings, record.key])


def write_shard(db: Db, key: int, shard: HarvestedShard) -> None:
    """Store a shard: all of it, or nothing that counts.

    Raises:
        DataError: the disk is full, or the store cannot be written; the shards before stay.
    """
    folder = _staging_dir(db, key)
    for sae_key, columns in shard.nonzeros.items():
        staging.write_nonzeros(folder, shard.number, sae_key, columns)
    with transaction(db):
        n_documents = insert(db, "documents", shard.documents)
        n_windows = insert(db, "windows", shard.windows)
        for columns in shard.bins.values():
            insert(db, "activation_bins", columns)
        db.execute(
            "INSERT INTO shards VALUES (?, ?, ?, ?, ?, ?)",
            [key, shard.number, shard.content, n_documents, n_windows, shard.n_tokens],
        )


class BinMerger:
    """Adds up the histograms of shards whenever as many rows came as were left the last time.

    So they grow with the features, not with the text, and two rows at most are added up for each that came.
    """

    def __init__(self, db: Db, sae_keys: Sequence[int], *, least: int = BINS_PER_MERGE) -> None:
        self._db = db
        self._sae_keys = list(sae_keys)
        self._least = least
        self._left = self._count()

    def after_shard(self) -> None:
        """Add up what came since, where that is due.

        Raises:
            DataError: the disk is full, or the store cannot be written; sums are the same before and after.
        """
        if self._count() - self._left < max(self._least, self._left):
            return
        merge_bins(self._db, self._sae_keys)
        self._left = self._count()

    def _count(self) -> int:
        sql = "SELECT count(*) FROM activation_bins WHERE list_contains(?, sae_key)"
        return int(value(self._db, sql, [self._sae_keys]))


def finish_harvest(
    db: Db, record: HarvestRecord, d_sae: Mapping[str, int], precision: Precision, middle: Middle
) -> None:
    """Sort activations by feature into the store, compute every feature's statistics, and mark it as finished.

    Args:
        db: The open store.
        record: The harvest, all of whose shards are stored.
        d_sae: Number of features of every SAE, so that features that never fired have a row too.
        precision: Of the stored values: exact, or one byte.
        middle: Value in the middle of each bin.

    Raises:
        DataError: the disk is full, or shards are missing; what is stored so far is kept.
    """
    folder = _staging_dir(db, record.key)
    paths = {key: staging.nonzero_paths(folder, record.shards, key) for key in record.sae_keys.values()}
    stride = record.n_windows * int(record.settings["n_ctx"])
    merge_bins(db, list(paths))
    with transaction(db):
        with token_codes(db, record.key, folder) as strings:
            for sae_id, key in record.sae_keys.items():
                _store_sorted(db, key, paths[key], precision, stride)
                write_features(db, record.key, (sae_id, key, d_sae[sae_id]), record.n_tokens, middle, strings)
        db.execute("UPDATE harvests SET finished = true WHERE harvest_key = ?", [record.key])
    db.execute("CHECKPOINT")
    staging.clear(folder)


def clear_staging(db: Db, record: HarvestRecord) -> None:
    """Remove what a run that was killed in its last moment left beside the store."""
    staging.clear(_staging_dir(db, record.key))


def _staging_dir(db: Db, key: int) -> Path:
    return staging.staging_dir(db, "harvest") / str(key)


def _store_sorted(db: Db, sae_key: int, paths: list[str], precision: Precision, stride: int) -> None:
    """Bring an SAE's activations into the store, a range of features at a time so that memory stays flat.

    Tokens go up within a feature only; `feature * stride + token` goes up throughout, in small steps.
    """
    db.execute(
        """
        CREATE OR REPLACE TEMP TABLE feature_maxima AS
        SELECT sae_key, feature, max(maximum) AS maximum FROM activation_bins WHERE sae_key = ? GROUP BY ALL
        """,
        [sae_key],
    )
    if precision == "u8":
        db.execute("INSERT INTO activation_scales SELECT * FROM feature_maxima ORDER BY feature")
        # Levels at (code + 0.5) / 255.5 of the maximum: no nonzero becomes 0, the maximum is exact, and the
        # largest error is maximum / 511.
        column = (
            "CAST(greatest(round(p.value / CAST(m.maximum AS DOUBLE) * 255.5 - 0.5), 0) AS UTINYINT) AS code"
        )
    else:
        column = "p.value"
    counts = feature_counts(db, sae_key, "sum(n)")
    limit = max(_ROWS_PER_SORT, sum(n for _, n in counts) // _SORTS_AT_MOST)
    for first, stop in feature_ranges(counts, limit):
        db.execute(
            f"""
            INSERT INTO activations_{precision} BY NAME
            SELECT CAST($key AS INTEGER) AS sae_key, p.feature,
                   CAST(p.feature AS BIGINT) * $stride + p.token AS sort_key, $stride AS stride, {column}
            FROM read_parquet($paths) p JOIN feature_maxima m USING (feature)
            WHERE p.feature >= $first AND p.feature < $stop ORDER BY sort_key
            """,
            {"key": sae_key, "stride": stride, "paths": paths, "first": first, "stop": stop},
        )
    db.execute("DROP TABLE feature_maxima")


def _check_free(db: Db, sae_keys: Mapping[str, int]) -> None:
    harvested = rows(
        db,
        "SELECT sae_id FROM saes JOIN harvest_saes USING (sae_key) SEMI JOIN shards USING (harvest_key)"
        " WHERE list_contains(?, sae_key) ORDER BY 1",
        [list(sae_keys.values())],
    )
    if harvested:
        raise ConfigError(
            f"{harvested[0][0]} was harvested into this store from other text or with other settings; "
            "use another --store, or --replace to drop that harvest"
        )


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

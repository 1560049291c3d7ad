"""What a harvest writes: its plan, its shards, and the features' statistics."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from safesail.domain.records import SaeInfo, SubjectInfo
from safesail.errors import ConfigError
from safesail.store.bulk import Column, insert
from safesail.store.connection import Db
from safesail.store.registry import register_sae, register_subject
from safesail.store.sql import one, rows, value

Middle = Callable[[NDArray[np.int32]], NDArray[np.float32]]
"""From bins to the values in their middle."""


@dataclass(frozen=True)
class HarvestRecord:
    """A harvest as the store knows it."""

    key: int
    sae_keys: dict[str, int]
    """Short keys by sae_id."""

    finished: bool
    shards: dict[int, str]
    """Content hash of every shard that is stored."""

    n_windows: int
    n_tokens: int


@dataclass(frozen=True)
class ShardRow:
    """The row that says that a shard is stored."""

    number: int
    content: str
    n_documents: int
    n_windows: int
    n_tokens: int


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
    register_subject(db, subject)
    keys = {sae.sae_id: register_sae(db, sae) for sae in saes}
    found = one(db, "SELECT harvest_key FROM harvests WHERE harvest_id = ?", [harvest_id])
    if found is None:
        for sae in saes:
            _make_room(db, sae.sae_id, keys[sae.sae_id], replace=replace)
        found = (value(db, "SELECT nextval('harvest_keys')"),)
        db.begin()
        db.execute(
            "INSERT INTO harvests VALUES (?, ?, ?, ?, ?, ?, false)",
            [found[0], harvest_id, subject.model_id, subject.fingerprint,
             json.dumps(settings, sort_keys=True), settings["n_ctx"]],
        )  # fmt: skip
        insert(db, "harvest_saes", {"sae_key": list(keys.values()), "harvest_key": [found[0]] * len(keys)})
        db.commit()
    return read_harvest(db, int(found[0]), keys)


def read_harvest(db: Db, key: int, sae_keys: dict[str, int]) -> HarvestRecord:
    """The harvest's progress."""
    done = rows(db, "SELECT shard, content, n_windows, n_tokens FROM shards WHERE harvest_key = ?", [key])
    return HarvestRecord(
        key=key,
        sae_keys=sae_keys,
        finished=bool(value(db, "SELECT finished FROM harvests WHERE harvest_key = ?", [key])),
        shards={int(r[0]): str(r[1]) for r in done},
        n_windows=sum(int(r[2]) for r in done),
        n_tokens=sum(int(r[3]) for r in done),
    )


def write_shard(db: Db, key: int, row: ShardRow, tables: Sequence[tuple[str, Mapping[str, Column]]]) -> None:
    """Store a shard's columns and its row in one transaction: all of it, or nothing."""
    db.begin()
    try:
        for table, columns in tables:
            insert(db, table, columns)
        db.execute(
            "INSERT INTO shards VALUES (?, ?, ?, ?, ?, ?)",
            [key, row.number, row.content, row.n_documents, row.n_windows, row.n_tokens],
        )
    except BaseException:
        db.rollback()
        raise
    db.commit()


def finish_harvest(db: Db, record: HarvestRecord, d_sae: Mapping[str, int], middle: Middle) -> None:
    """Sort activations by feature, compute every feature's statistics, and mark the harvest as finished.

    Args:
        db: The open store.
        record: The harvest, all of whose shards are stored.
        d_sae: Number of features of every SAE, so that features that never fired have a row too.
        middle: Value in the middle of each bin.
    """
    n_tokens = value(db, "SELECT sum(n_tokens) FROM shards WHERE harvest_key = ?", [record.key])
    db.begin()
    try:
        for sae_id, sae_key in record.sae_keys.items():
            _write_features(db, record.key, (sae_id, sae_key), (d_sae[sae_id], int(n_tokens)), middle)
        _sort_activations(db)
        db.execute("UPDATE harvests SET finished = true WHERE harvest_key = ?", [record.key])
    except BaseException:
        db.rollback()
        raise
    db.commit()
    db.execute("CHECKPOINT")


def quantiles_from_bins(
    feature: NDArray[np.int64], middles: NDArray[np.float64], n: NDArray[np.int64], q: float
) -> dict[int, float]:
    """Quantile `q` of every feature from its histogram.

    The order statistic at rank ceil(q * (n_active - 1)) is read as the middle of its bin.

    Args:
        feature: Feature of each bin; bins sorted by feature, then by value.
        middles: Value in the middle of each bin.
        n: Count in each bin.
        q: In [0, 1].
    """
    found: dict[int, float] = {}
    if not len(feature):  # no feature of the SAE ever fired
        return found
    starts = np.flatnonzero(np.r_[True, feature[1:] != feature[:-1]])
    for start, stop in zip(starts, np.r_[starts[1:], len(feature)], strict=True):
        cumulative = np.cumsum(n[start:stop])
        rank = int(np.ceil(q * (cumulative[-1] - 1)))
        found[int(feature[start])] = float(middles[start + np.searchsorted(cumulative, rank, side="right")])
    return found


def _write_features(db: Db, key: int, sae: tuple[str, int], size: tuple[int, int], middle: Middle) -> None:
    (sae_id, sae_key), (d_sae, n_tokens) = sae, size
    bins = rows(
        db,
        "SELECT feature, bin, sum(n), sum(total), max(maximum) FROM activation_bins WHERE sae_key = ?"
        " GROUP BY feature, bin ORDER BY feature, bin",
        [sae_key],
    )
    feature = np.array([r[0] for r in bins], dtype=np.int64)
    n = np.array([r[2] for r in bins], dtype=np.int64)
    active = np.bincount(feature, weights=n, minlength=d_sae).astype(np.int64)
    total = np.bincount(feature, weights=np.array([r[3] for r in bins], dtype=float), minlength=d_sae)
    maximum = np.zeros(d_sae)
    np.maximum.at(maximum, feature, np.array([r[4] for r in bins], dtype=float))
    middles = np.minimum(
        middle(np.array([r[1] for r in bins], dtype=np.int32)).astype(float), maximum[feature]
    )
    quantiles = {name: quantiles_from_bins(feature, middles, n, q) for name, q in _QUANTILES.items()}
    dead = active == 0
    tokens = _top_tokens(db, sae_key, key)
    db.execute("DELETE FROM features WHERE sae_id = ?", [sae_id])
    columns: dict[str, Column] = {
        "sae_id": [sae_id] * d_sae,
        "feature": np.arange(d_sae, dtype=np.int32),
        "harvest_key": np.full(d_sae, key, dtype=np.int32),
        "n_tokens": np.full(d_sae, n_tokens, dtype=np.int64),
        "n_active": active,
        "density": active / n_tokens,
        "mean": pa.array(total / np.maximum(active, 1), mask=dead),
        "maximum": pa.array(maximum, mask=dead),
        **{name: [found.get(j) for j in range(d_sae)] for name, found in quantiles.items()},
        "top_tokens": pa.array([tokens.get(j) for j in range(d_sae)], type=pa.list_(pa.string())),
    }
    insert(db, "features", columns)


_QUANTILES = {"q90": 0.9, "q99": 0.99, "q999": 0.999}
N_TOP_TOKENS = 10


def _top_tokens(db: Db, sae_key: int, harvest_key: int) -> dict[int, list[str]]:
    """Per feature, the token strings with the largest summed activation among the kept nonzeros."""
    found = rows(
        db,
        """
        WITH summed AS (
            SELECT a.feature, w.tokens[CAST(a.token % h.n_ctx AS INTEGER) + 1] AS string, sum(a.value) AS mass
            FROM activations a
            JOIN harvests h ON h.harvest_key = ?
            JOIN windows w ON w.harvest_key = h.harvest_key AND w.window_id = a.token // h.n_ctx
            WHERE a.sae_key = ?
            GROUP BY 1, 2
            QUALIFY row_number() OVER (PARTITION BY a.feature ORDER BY mass DESC, string) <= ?
        )
        SELECT feature, list(string ORDER BY mass DESC, string) FROM summed GROUP BY feature
        """,
        [harvest_key, sae_key, N_TOP_TOKENS],
    )
    return {int(r[0]): list(r[1]) for r in found}


def _sort_activations(db: Db) -> None:
    """Rewrite the table in the order in which it is read: one feature's rows lie together, and pack well."""
    db.execute(
        "CREATE TABLE sorted_activations AS SELECT * FROM activations ORDER BY sae_key, feature, token"
    )
    db.execute("DROP TABLE activations")
    db.execute("ALTER TABLE sorted_activations RENAME TO activations")


def _make_room(db: Db, sae_id: str, sae_key: int, *, replace: bool) -> None:
    """Drop another harvest's data of this SAE, where that was asked for, or where it never stored anything."""
    held = one(
        db,
        "SELECT count(shard) FROM harvest_saes LEFT JOIN shards USING (harvest_key) WHERE sae_key = ?"
        " GROUP BY harvest_key",
        [sae_key],
    )
    if held is None:
        return
    if held[0] and not replace:
        raise ConfigError(
            f"{sae_id} was harvested into this store from other text or with other settings; "
            "use another --store, or --replace to drop that harvest"
        )
    for table in ("activations", "activation_bins", "harvest_saes"):
        db.execute(f"DELETE FROM {table} WHERE sae_key = ?", [sae_key])
    db.execute("DELETE FROM features WHERE sae_id = ?", [sae_id])


def count_stored(db: Db, record: HarvestRecord) -> tuple[int, int]:
    """Documents and nonzeros that the store holds of a harvest."""
    keys = list(record.sae_keys.values())
    documents = value(db, "SELECT count(*) FROM documents WHERE harvest_key = ?", [record.key])
    nonzeros = value(db, "SELECT count(*) FROM activations WHERE list_contains(?, sae_key)", [keys])
    return int(documents), int(nonzeros)

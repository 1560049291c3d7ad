"""Bringing other people's catalogs in: tables of the release format into the store, nothing lost, nothing doubled."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from safesail.domain.records import NOT_STATED
from safesail.errors import DataError, FingerprintError
from safesail.store.arrow import ArrowTable
from safesail.store.connection import Db
from safesail.store.registry import utc_now
from safesail.store.sql import one, rows, value

IMPORT_N_CTX = 65_536
"""Longest imported exemplar in tokens; imported windows are numbered with this stride."""


def _add_batch(db: Db, table: str, batch: ArrowTable) -> int:
    """Add rows of a table of the release format, leaving those that are there; returns how many are new.

    Raises:
        FingerprintError: an index that the SAE does not have.
        DataError: an exemplar is too long.
    """
    if batch.num_rows == 0:
        return 0
    if table in _ORDERED:
        batch = _with_ordinals(db, batch, _ORDERED[table])
    for name in _LATER.get(table, ()):
        if name not in batch.column_names:  # a catalog that knows no look-up
            batch = batch.append_column(name, pa.nulls(batch.num_rows, pa.float64()))
    db.register("_incoming", batch)
    try:
        if "index" in batch.column_names:
            _check_width(db)
        if table == "exemplars":
            return _add_exemplars(db)
        before = _count(db, table)
        db.execute(_INSERTS[table])
        return _count(db, table) - before
    finally:
        db.unregister("_incoming")


_LATER = {"scores": ("lookup", "gain_low", "gain_high")}
"""Columns that other formats, and the release format's first version, do not have."""

_ORDERED = {"explanations": "explanation_order", "scores": "score_order"}

_FEATURE_COLUMNS = ("n_tokens", "n_active", "density", "mean", "maximum", "q90", "q99", "q999", "top_tokens")
_KEEP = ", ".join(f"{name} = excluded.{name}" for name in _FEATURE_COLUMNS)

_INSERTS = {
    # Statistics of one source are never mixed with another's: only a row without any takes them.
    "features": f"""
        INSERT INTO features (sae_id, feature, {", ".join(_FEATURE_COLUMNS)})
        SELECT DISTINCT ON (sae_id, "index") sae_id, "index", {", ".join(_FEATURE_COLUMNS)} FROM _incoming
        ON CONFLICT (sae_id, feature) DO UPDATE SET {_KEEP}
        WHERE features.harvest_key IS NULL AND features.density IS NULL AND features.maximum IS NULL
          AND features.top_tokens IS NULL
    """,
    # What an earlier version imported has other ids; it is there all the same.
    "explanations": """
        INSERT OR IGNORE INTO explanations BY NAME
        SELECT explanation_id, sae_id, "index" AS feature, text, masked, lang, explainer, prompt_hash, origin,
               confidence, error, message, ordinal
        FROM _incoming i WHERE NOT EXISTS (
            SELECT 1 FROM explanations e WHERE e.sae_id = i.sae_id AND e.feature = i."index" AND e.text = i.text
              AND (e.explainer, e.lang, e.origin) = (i.explainer, i.lang, i.origin) AND e.prompt_hash IS NULL)
        ORDER BY ordinal
    """,
    # The order in which a feature's tags were given is kept: INSERT OR IGNORE would not keep it.
    "tags": """
        INSERT INTO tags BY NAME
        SELECT sae_id, "index" AS feature, tag, source, severity FROM _incoming i
        ANTI JOIN tags t ON t.sae_id = i.sae_id AND t.feature = i."index" AND t.tag = i.tag AND t.source = i.source
        ORDER BY sae_id, "index", position
    """,
    "scores": """
        INSERT OR IGNORE INTO scores BY NAME
        SELECT explanation_id, sae_id, "index" AS feature, method, simulator, prompt_hash, value, low, high, chance,
               auc, balanced_accuracy, n_units, n_windows, reason, error, tokens, 'unknown' AS settings_hash, ordinal,
               lookup, gain_low, gain_high
        FROM _incoming SEMI JOIN explanations USING (explanation_id) ORDER BY ordinal
    """,
    "concepts": """
        INSERT OR IGNORE INTO concepts BY NAME SELECT concept_id, domain, leaf, name, definition FROM _incoming
    """,
    "feature_concepts": """
        INSERT INTO feature_concepts BY NAME
        SELECT selection_id, sae_id, "index" AS feature, concept_id, frequency, swapped, n_pairs, true AS candidate
        FROM _incoming i WHERE NOT EXISTS (
            SELECT 1 FROM feature_concepts c WHERE c.selection_id = i.selection_id AND c.sae_id = i.sae_id
              AND c.feature = i."index" AND c.concept_id = i.concept_id)
    """,
    "effects": """
        INSERT OR IGNORE INTO effects BY NAME SELECT "index" AS feature, * EXCLUDE ("index") FROM _incoming
    """,
}


def merge_features(db: Db, theirs: str, ours: str) -> None:
    """Features of one SAE under the name of another; statistics that are there stand."""
    columns = ", ".join(_FEATURE_COLUMNS)
    moved = db.sql(
        f'SELECT CAST(? AS TEXT) AS sae_id, feature AS "index", {columns} FROM features WHERE sae_id = ?',
        params=[ours, theirs],
    ).to_arrow_table()
    _add_batch(db, "features", moved)


def _count(db: Db, table: str) -> int:
    return int(value(db, f"SELECT count(*) FROM {table}"))


def _check_width(db: Db) -> None:
    wrong = one(
        db,
        'SELECT i.sae_id, max(i."index"), min(i."index"), any_value(s.d_sae), count(*)'
        ' FROM _incoming i LEFT JOIN saes s USING (sae_id) WHERE i."index" >= s.d_sae OR i."index" < 0'
        " OR s.sae_id IS NULL GROUP BY ALL ORDER BY 1",
    )
    if wrong is not None:
        bad = wrong[2] if wrong[2] < 0 else wrong[1]
        raise FingerprintError(
            f"{wrong[4]:,} rows cannot belong to SAE {wrong[0]!r} of width {wrong[3]}, such as index {bad}; "
            "is it another SAE? Nothing was imported"
        )


def _with_ordinals(db: Db, batch: ArrowTable, sequence: str) -> ArrowTable:
    """The batch with places in the store's own order: what came later in the catalog is later here too."""
    batch = batch.sort_by("ordinal")
    drawn = db.sql(f"SELECT nextval('{sequence}') AS n FROM range({batch.num_rows})").fetchnumpy()["n"]
    column = batch.schema.get_field_index("ordinal")
    return batch.set_column(column, "ordinal", pa.array(np.sort(drawn), pa.int64()))


def _add_exemplars(db: Db) -> int:
    """Add windows of features that have none yet, unless the store harvested their SAE itself."""
    if (longest := value(db, "SELECT max(len(tokens)) FROM _incoming")) > IMPORT_N_CTX:
        raise DataError(f"an exemplar has {longest:,} tokens; at most {IMPORT_N_CTX:,} can be stored")
    _open_import_harvests(db)
    db.execute(
        """
        CREATE OR REPLACE TEMP TABLE fresh AS
        SELECT DISTINCT ON (i.sae_id, i."index", i.document_id, i.start) i.*, s.sae_key, h.harvest_key
        FROM _incoming i JOIN saes s USING (sae_id)
        JOIN harvest_saes USING (sae_key) JOIN harvests h USING (harvest_key)
        WHERE i.maximum > 0 AND h.n_ctx = ? AND starts_with(h.harvest_id, 'import:') AND (s.sae_key, i."index") NOT IN (
            SELECT (sae_key, feature) FROM had_windows)
        """,
        [IMPORT_N_CTX],
    )
    _write_windows(db)
    db.execute(
        """
        INSERT INTO activations_f32 BY NAME
        WITH long AS (
            SELECT f.sae_key, f."index" AS feature, w.window_id, unnest(f.activations) AS value,
                   unnest(range(len(f.activations))) AS position
            FROM fresh f JOIN windows w USING (harvest_key, document_id, start)
        )
        SELECT sae_key, feature, window_id * ? + position AS sort_key, 0 AS stride, value FROM long WHERE value <> 0
        ORDER BY sae_key, feature, sort_key
        """,
        [IMPORT_N_CTX],
    )
    return int(value(db, "SELECT count(*) FROM fresh"))


def _write_windows(db: Db) -> None:
    """Windows of `fresh` that the store does not have, numbered after those it has."""
    db.execute(
        """
        INSERT INTO windows BY NAME
        WITH last AS (SELECT harvest_key, max(window_id) AS n FROM windows GROUP BY 1), distinct_windows AS (
            SELECT DISTINCT ON (f.harvest_key, f.document_id, f.start)
                   f.harvest_key, f.document_id, f.start, f.split, f.tokens
            FROM fresh f ANTI JOIN windows w USING (harvest_key, document_id, start)
        )
        SELECT harvest_key, coalesce(last.n, -1) + row_number() OVER (
                   PARTITION BY harvest_key ORDER BY document_id, start) AS window_id,
               document_id, start, split, CAST([] AS INTEGER[]) AS token_ids, tokens
        FROM distinct_windows LEFT JOIN last USING (harvest_key)
        """
    )


def _open_import_harvests(db: Db) -> None:
    """A place for imported windows of every SAE that has no harvest."""
    for sae_key, sae_id, model_id, fingerprint in rows(
        db,
        "SELECT s.sae_key, s.sae_id, s.model_id, m.fingerprint FROM saes s"
        " LEFT JOIN subject_models m USING (model_id) SEMI JOIN _incoming USING (sae_id)"
        " ANTI JOIN harvest_saes USING (sae_key) ORDER BY 1",
    ):
        key = value(db, "SELECT nextval('harvest_keys')")
        db.execute(
            "INSERT INTO harvests VALUES (?, ?, ?, ?, '{\"imported\": true}', ?, true)",
            [key, f"import:{sae_id}", model_id, fingerprint or NOT_STATED, IMPORT_N_CTX],
        )
        db.execute("INSERT INTO harvest_saes VALUES (?, ?)", [sae_key, key])


def record_import(db: Db, name: str, form: str, sha256: str, report: Mapping[str, Any]) -> None:
    """Remember where rows came from; a second import of the same thing keeps the first one's record."""
    known = one(db, "SELECT sha256, format FROM imports WHERE name = ?", [name])
    if known != (sha256, form):
        db.execute(
            "INSERT OR REPLACE INTO imports VALUES (?, ?, ?, ?, ?)",
            [name, form, sha256, utc_now(), json.dumps(report, sort_keys=True)],
        )


def imported_digest(db: Db, name: str) -> str | None:
    """SHA-256 of what was last imported under this name; None: nothing was."""
    row = one(db, "SELECT sha256 FROM imports WHERE name = ?", [name])
    return None if row is None else str(row[0])


_PROVENANCE = ("source", "address", "licence", "page")


def imported_from(db: Db) -> dict[str, dict[str, str]]:
    """Where downloaded catalogs came from, by their names; what the user imported by hand is not among them."""
    origins: dict[str, dict[str, str]] = {}
    for name, report in rows(db, "SELECT name, report FROM imports ORDER BY name"):
        stated = json.loads(report).get("provenance") or {}
        if "licence" in stated and "source" in stated:
            origins[str(name)] = {key: str(stated[key]) for key in _PROVENANCE if key in stated}
    return origins


def record_origin(db: Db, name: str, sha256: str, provenance: Mapping[str, str]) -> None:
    """Remember where explanations came from that a release passes on, unless this store got them itself."""
    if one(db, "SELECT 1 FROM imports WHERE name = ?", [name]) is None:
        record_import(db, name, "release", sha256, {"provenance": dict(provenance)})


def begin_import(db: Db) -> None:
    """To be called once before `add_tables`: a feature's windows may lie in two batches of the same import."""
    db.execute(
        "CREATE OR REPLACE TEMP TABLE had_windows AS SELECT DISTINCT sae_key, feature FROM activations"
    )


def add_tables(db: Db, tables: Mapping[str, Iterable[ArrowTable]], order: Sequence[str]) -> dict[str, int]:
    """Add all batches of all tables in `order`; returns the number of new rows of each."""
    return {name: sum(_add_batch(db, name, batch) for batch in tables.get(name, ())) for name in order}

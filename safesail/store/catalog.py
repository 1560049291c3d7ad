"""What a catalog release takes out of a store."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from safesail.store.arrow import ArrowBatch
from safesail.store.connection import Db


@dataclass(frozen=True)
class ReleaseFilter:
    """Which features a release takes, and how they look in it."""

    name: str
    """Of the release: it stands where the store says only `run`."""

    redacted_tags: tuple[str, ...]
    min_score: float | None
    n_exemplars: int


@contextmanager
def released(db: Db, chosen: ReleaseFilter) -> Generator[None, None, None]:
    """Mark the features and explanations of a release, in temporary tables that `release_table` reads."""
    db.execute(
        """
        CREATE OR REPLACE TEMP TABLE released AS
        WITH known AS (
            SELECT sae_id, feature FROM explanations UNION SELECT sae_id, feature FROM tags
            UNION SELECT sae_id, feature FROM effects
        ), hidden AS (
            SELECT DISTINCT sae_id, feature FROM live_tags WHERE list_contains(?, tag)
        )
        SELECT f.sae_id, f.feature, hidden.sae_id IS NOT NULL AS redacted
        FROM features f SEMI JOIN known USING (sae_id, feature)
        LEFT JOIN hidden USING (sae_id, feature)
        WHERE CAST(? AS DOUBLE) IS NULL OR (sae_id, feature) IN (
            SELECT (sae_id, "index") FROM catalog WHERE score >= ?)
        """,
        [list(chosen.redacted_tags), chosen.min_score, chosen.min_score],
    )
    db.execute(
        """
        CREATE OR REPLACE TEMP TABLE released_explanations AS
        SELECT e.explanation_id AS old_id,
               -- a digest of the text would let a guess at it be confirmed
               CASE WHEN r.redacted AND e.text IS NOT NULL
                    THEN substr(sha256(concat_ws('/', 'redacted', e.sae_id, e.feature, row_number() OVER (
                        PARTITION BY e.sae_id, e.feature ORDER BY e.ordinal))), 1, 16)
                    ELSE e.explanation_id END AS explanation_id,
               row_number() OVER (ORDER BY e.ordinal) AS ordinal, r.redacted
        FROM explanations e JOIN released r USING (sae_id, feature)
        """
    )
    try:
        yield
    finally:
        db.execute("DROP TABLE temp.released_explanations")
        db.execute("DROP TABLE temp.released")


def release_table(db: Db, table: str, chosen: ReleaseFilter) -> Generator[ArrowBatch, None, None]:
    """Rows of one table of the release, in a fixed order; call within `released`."""
    parameters: dict[str, Sequence[Any]] = {
        "explanations": [chosen.name],
        "tags": [chosen.name],
        "exemplars": [chosen.n_exemplars],
    }
    yield from db.sql(_TABLES[table], params=list(parameters.get(table, ()))).to_arrow_reader(65_536)


_TABLES = {
    "features": """
        SELECT f.sae_id, f.feature AS "index", s.layer, f.n_tokens, f.n_active, f.density, f.mean, f.maximum,
               f.q90, f.q99, f.q999, CASE WHEN r.redacted THEN NULL ELSE f.top_tokens END AS top_tokens,
               r.redacted
        FROM features f JOIN released r USING (sae_id, feature) JOIN saes s USING (sae_id)
        ORDER BY f.sae_id, f.feature
    """,
    "explanations": """
        SELECT r.explanation_id, e.sae_id, e.feature AS "index",
               CASE WHEN r.redacted THEN NULL ELSE e.text END AS text,
               e.masked OR (r.redacted AND e.text IS NOT NULL) AS masked,
               e.lang, e.explainer, e.prompt_hash, CASE WHEN e.origin = 'run' THEN ? ELSE e.origin END AS origin,
               e.confidence, e.error, CASE WHEN r.redacted THEN NULL ELSE e.message END AS message, r.ordinal
        FROM explanations e JOIN released_explanations r ON r.old_id = e.explanation_id
        ORDER BY e.sae_id, e.feature, r.ordinal
    """,
    "tags": """
        SELECT t.sae_id, t.feature AS "index",
               row_number() OVER (PARTITION BY t.sae_id, t.feature ORDER BY t.ordinal) AS position, t.tag,
               CASE WHEN t.source IN ('concepts', 'explainer', 'person') THEN concat(?, '/', t.source)
                    ELSE t.source END AS source, t.severity
        FROM live_tags t SEMI JOIN released USING (sae_id, feature)
        ORDER BY t.sae_id, t.feature, t.ordinal
    """,
    "scores": """
        SELECT r.explanation_id, c.sae_id, c.feature AS "index", c.method, c.simulator, c.prompt_hash, c.value,
               c.low, c.high, c.chance, c.auc, c.balanced_accuracy, c.n_units, c.n_windows, c.reason, c.error,
               c.tokens, row_number() OVER (ORDER BY c.ordinal) AS ordinal, c.lookup, c.gain_low, c.gain_high
        FROM (
            -- The format has one row for each method and simulator: of the settings that the catalog scores by, or
            -- else of those with a value and a chance line.
            SELECT c.* FROM scores c LEFT JOIN headline_methods h USING (sae_id, method, simulator, settings_hash)
            QUALIFY row_number() OVER (PARTITION BY c.explanation_id, c.method, c.simulator ORDER BY
                (h.sae_id IS NULL), (c.value IS NULL), (c.chance IS NULL), c.ordinal) = 1
        ) c JOIN released_explanations r ON r.old_id = c.explanation_id
        ORDER BY c.sae_id, c.feature, ordinal
    """,
    # A window in which a redacted feature fires strongly is a text of its domain, whoever else fires in it.
    "exemplars": """
        WITH placed AS (
            SELECT s.sae_id, a.feature, a.harvest_key, a.window_id, a.value, f.q90, a.position, r.redacted
            FROM activations a JOIN saes s USING (sae_key)
            JOIN released r ON r.sae_id = s.sae_id AND r.feature = a.feature
            JOIN features f ON f.sae_id = s.sae_id AND f.feature = a.feature
        ), hidden AS (
            SELECT DISTINCT harvest_key, window_id FROM placed WHERE redacted AND value >= coalesce(q90, 0)
        ), active AS (
            SELECT sae_id, feature, harvest_key, window_id, max(value) AS maximum, list(position) AS positions,
                   list(value) AS found
            FROM placed WHERE NOT redacted GROUP BY sae_id, feature, harvest_key, window_id
        ), ranked AS (
            SELECT a.*, w.split, w.document_id, w.start, w.tokens, row_number() OVER (
                PARTITION BY a.sae_id, a.feature ORDER BY a.maximum DESC, w.document_id, w.start) AS place
            FROM active a ANTI JOIN hidden USING (harvest_key, window_id) JOIN windows w USING (harvest_key, window_id)
            QUALIFY place <= ?
        )
        SELECT sae_id, feature AS "index", place AS rank, split, document_id, start, maximum, tokens,
               list_transform(range(len(tokens)), lambda p: coalesce(
                   found[list_position(positions, CAST(p AS INTEGER))], 0)) AS activations
        FROM ranked ORDER BY sae_id, feature, place
    """,
    # Of the settings whose effects stand in the catalog; which tokens a redacted feature moves would tell what it is.
    "effects": """
        SELECT e.sae_id, e.feature AS "index", e.condition, e.texts, e.measure, e.expected, e.value, e.null_value,
               e.random_value, e.gain_low, e.gain_high, e.null_values, e.p, e.q, e.strength, e.cost, e.n_texts,
               CASE WHEN r.redacted THEN NULL ELSE e.tokens END AS tokens, e.reason, e.seed, e.settings,
               e.settings_hash, e.fingerprint, e.sae_sha256, e.texts_id
        FROM effects e JOIN headline_effects USING (sae_id, settings_hash) JOIN released r USING (sae_id, feature)
        ORDER BY e.sae_id, e.feature, e.condition, e.texts, e.measure
    """,
    "concepts": "SELECT concept_id, domain, leaf, name, definition FROM concepts ORDER BY concept_id",
    "feature_concepts": """
        SELECT c.sae_id, c.feature AS "index", c.concept_id, c.selection_id, c.frequency, c.swapped, c.n_pairs
        FROM feature_concepts c SEMI JOIN released USING (sae_id, feature) WHERE c.candidate
        ORDER BY c.sae_id, c.feature, c.concept_id, c.selection_id
    """,
}


def released_saes(db: Db) -> list[dict[str, Any]]:
    """SAEs of the release, by column."""
    return _records(
        db,
        "SELECT sae_id, model_id, hook, layer, d_in, d_sae, architecture, k, sha256, source FROM saes"
        " WHERE sae_id IN (SELECT sae_id FROM released) ORDER BY sae_id",
    )


def released_models(db: Db) -> list[dict[str, Any]]:
    """Subject models of the release, by column."""
    return _records(
        db,
        "SELECT model_id, fingerprint, d_model, n_layers FROM subject_models WHERE model_id IN ("
        " SELECT model_id FROM saes WHERE sae_id IN (SELECT sae_id FROM released)) ORDER BY model_id",
    )


def _records(db: Db, sql: str) -> list[dict[str, Any]]:
    return db.sql(sql).to_arrow_table().to_pylist()

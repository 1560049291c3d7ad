"""What the page of one feature reads beside `shown.py`: windows by level, histogram, neighbours."""

from dataclasses import dataclass

from safesail.domain.ids import FeatureId
from safesail.store.connection import Db
from safesail.store.sql import Row, one, rows, value

N_LEVELS = 5
_LEVELLED = """
    WITH levelled AS (
        SELECT w.harvest_key, w.window_id, w.maximum, w.positions, w.activations,
               CAST(least($n, greatest(1, ceil(w.maximum / $top * $n))) AS INTEGER) AS level
        FROM active_windows w
        WHERE w.sae_key = (SELECT sae_key FROM saes WHERE sae_id = $sae_id) AND w.feature = $feature
    ), chosen AS (
        SELECT l.*, x.split, x.document_id, x.start, x.tokens,
               count(*) OVER (PARTITION BY level) AS n_level
        FROM levelled l JOIN windows x USING (harvest_key, window_id)
        QUALIFY row_number() OVER (
            PARTITION BY level, x.split = 'test' ORDER BY CASE WHEN level = $n THEN -maximum ELSE hash(window_id) END,
            window_id) <= $each
    )
    SELECT level, n_level, split, document_id, start, tokens, positions, activations FROM chosen
    ORDER BY level DESC, (split = 'test'), maximum DESC, document_id, start
"""
"""The highest level shows its strongest windows, the others ones drawn by a hash."""

BLOCK = 1024
"""Consecutive windows out of which controls are drawn: all windows of a large harvest would take too long."""

MANY_ACTIVATIONS = 20_000_000
"""Above so many of a store, features that fire together are sought when asked for only."""


@dataclass(frozen=True)
class Statistics:
    """Of a feature over the text of its harvest; None: unknown."""

    n_tokens: int | None
    n_active: int | None
    density: float | None
    mean: float | None
    maximum: float | None
    q90: float | None
    q99: float | None
    q999: float | None


def statistics(db: Db, feature: FeatureId) -> Statistics:
    """What the harvest measured of a feature; the feature is there."""
    row = one(
        db,
        "SELECT n_tokens, n_active, density, mean, maximum, q90, q99, q999 FROM features"
        " WHERE sae_id = ? AND feature = ?",
        [feature.sae_id, feature.index],
    )
    assert row is not None, feature
    return Statistics(*row)


def levelled_windows(db: Db, feature: FeatureId, top: float, each: int) -> list[Row]:
    """level, windows of that level, split, document_id, start, tokens, positions, activations; strongest level first.

    Args:
        db: An open catalog.
        feature: The feature.
        top: Activation of the highest level, > 0.
        each: Windows of a level and side (test, or not) at most.
    """
    return rows(
        db,
        _LEVELLED,
        {"n": N_LEVELS, "top": top, "sae_id": feature.sae_id, "feature": feature.index, "each": each},
    )


def control_windows(db: Db, feature: FeatureId, n: int) -> list[Row]:
    """kind, split, document_id, start, tokens of windows in which the feature is silent: `hard` ones, then `random`.

    Hard ones hold one of its top tokens. Drawn by a hash out of a block of consecutive windows.
    """
    return rows(
        db,
        """
        WITH this AS (
            SELECT s.sae_key, h.harvest_key, coalesce(f.top_tokens, []) AS top_tokens
            FROM saes s JOIN harvest_saes h USING (sae_key) JOIN features f USING (sae_id)
            WHERE s.sae_id = $sae_id AND f.feature = $feature AND f.harvest_key IS NOT NULL
        ), size AS (
            SELECT max(window_id) + 1 AS n FROM windows SEMI JOIN this USING (harvest_key)
        ), block AS (
            SELECT w.* FROM windows w JOIN this USING (harvest_key), size
            WHERE w.window_id BETWEEN CAST($feature AS BIGINT) * 7919 % greatest(size.n - $block, 1)
                                  AND CAST($feature AS BIGINT) * 7919 % greatest(size.n - $block, 1) + $block
        ), silent AS (
            SELECT b.*, list_has_any(b.tokens, top_tokens) AS hard FROM block b, this
            WHERE NOT EXISTS (
                SELECT 1 FROM activations a WHERE a.sae_key = this.sae_key AND a.feature = $feature
                  AND a.window_id = b.window_id)
        )
        SELECT CASE WHEN hard THEN 'hard' ELSE 'random' END, split, document_id, start, tokens FROM silent
        QUALIFY row_number() OVER (PARTITION BY hard ORDER BY hash(window_id, $feature), window_id) <= $n
        ORDER BY hard DESC, document_id, start
        """,
        {"sae_id": feature.sae_id, "feature": feature.index, "n": n, "block": BLOCK},
    )


def value_histogram(db: Db, feature: FeatureId, top: float, n_bins: int) -> list[int]:
    """Stored nonzeros by `n_bins` equal bins from 0 to `top`; larger ones are in the last bin."""
    counted = rows(
        db,
        "SELECT least($n - 1, CAST(floor(value / $top * $n) AS INTEGER)) AS bin, count(*) FROM activations"
        " WHERE sae_key = (SELECT sae_key FROM saes WHERE sae_id = $sae_id) AND feature = $feature GROUP BY 1",
        {"n": n_bins, "top": top, "sae_id": feature.sae_id, "feature": feature.index},
    )
    bins = [0] * n_bins
    for at, n in counted:
        bins[int(at)] = int(n)
    return bins


def n_activations(db: Db) -> int:
    """Stored nonzeros of all SAEs."""
    return int(
        value(db, "SELECT (SELECT count(*) FROM activations_f32) + (SELECT count(*) FROM activations_u8)")
    )


def fill_norms(db: Db) -> None:
    """Compute once, for `active_together`, how long the vector of each feature's activations is."""
    db.execute(
        "CREATE TEMP TABLE IF NOT EXISTS norms AS"
        " SELECT sae_key, feature, sqrt(sum(CAST(value AS DOUBLE) * value)) AS norm FROM activations GROUP BY 1, 2"
    )


def active_together(db: Db, feature: FeatureId, limit: int) -> list[Row]:
    """index, cosine of activations over all stored tokens, tokens on which both fire; nearest first.

    Args:
        db: A store after `fill_norms`.
        feature: Of a harvested SAE.
        limit: At most so many.
    """
    return rows(
        db,
        """
        WITH own AS (
            SELECT sae_key, token, value FROM activations
            WHERE sae_key = (SELECT sae_key FROM saes WHERE sae_id = $sae_id) AND feature = $feature
        ), shared AS (
            SELECT a.sae_key, a.feature, sum(CAST(a.value AS DOUBLE) * own.value) AS dot, count(*) AS n
            FROM activations a JOIN own USING (sae_key, token) WHERE a.feature <> $feature GROUP BY 1, 2
        )
        SELECT s.feature, s.dot / (o.norm * m.norm) AS cosine, s.n FROM shared s JOIN norms o USING (sae_key, feature)
        JOIN norms m ON m.sae_key = s.sae_key AND m.feature = $feature
        ORDER BY cosine DESC, s.feature LIMIT $limit
        """,
        {"sae_id": feature.sae_id, "feature": feature.index, "limit": limit},
    )


def near_directions(db: Db, feature: FeatureId, limit: int) -> list[Row]:
    """index, cosine of decoder directions, of features that a stage found close; closest first."""
    return rows(
        db,
        "SELECT CASE WHEN feature = $f THEN other ELSE feature END AS near, cosine FROM near_features"
        " WHERE sae_id = $s AND (feature = $f OR other = $f) ORDER BY cosine DESC, near LIMIT $n",
        {"s": feature.sae_id, "f": feature.index, "n": limit},
    )


def named_features(
    db: Db, sae_id: str, indices: list[int]
) -> dict[int, tuple[str | None, float | None, tuple[str, ...]]]:
    """Explanation, score and top tokens of features of one SAE, by index."""
    selected = rows(
        db,
        'SELECT "index", explanation, score, top_tokens FROM temp.catalog WHERE sae_id = ?'
        ' AND "index" IN (SELECT unnest(CAST(? AS INTEGER[])))',
        [sae_id, indices],
    )
    return {int(index): (text, score, tuple(tokens or ())) for index, text, score, tokens in selected}


def score_origins(db: Db, feature: FeatureId) -> list[Row]:
    """explanation_id, method, simulator, run_id, prompt_hash, settings_hash, tokens; newest first, as `score_rows`."""
    return rows(
        db,
        "SELECT explanation_id, method, simulator, run_id, prompt_hash, settings_hash, tokens FROM scores"
        " WHERE sae_id = ? AND feature = ? ORDER BY ordinal DESC",
        [feature.sae_id, feature.index],
    )


def headline_methods(db: Db) -> dict[str, tuple[str, str, str]]:
    """By SAE the method, simulator and settings whose scores the catalog shows."""
    held = rows(db, "SELECT sae_id, method, simulator, settings_hash FROM main.headline_methods")
    return {str(row[0]): (str(row[1]), str(row[2]), str(row[3])) for row in held}


def saes_with_windows(db: Db) -> set[str]:
    """SAEs of whose features the catalog has windows."""
    return {
        str(row[0])
        for row in rows(
            db, "SELECT sae_id FROM saes WHERE sae_key IN (SELECT DISTINCT sae_key FROM active_windows)"
        )
    }


def has_rows(db: Db, table: str) -> bool:
    """Whether a table of the store has any row."""
    assert table in ("near_features", "feature_concepts"), table
    return one(db, f"SELECT 1 FROM {table} LIMIT 1") is not None


def explanation_ids(db: Db, feature: FeatureId) -> list[Row]:
    """explanation_id, prompt_hash of a feature's explanations; newest first, as `shown.explanation_rows`."""
    return rows(
        db,
        "SELECT explanation_id, prompt_hash FROM explanations WHERE sae_id = ? AND feature = ? ORDER BY ordinal DESC",
        [feature.sae_id, feature.index],
    )

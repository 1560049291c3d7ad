"""Counts and score distributions over a whole catalog, and what two catalogs and texts have in common."""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from safesail.store.arrow import ArrowTable
from safesail.store.connection import Db
from safesail.store.sql import Row, rows

_GROUPED = """
    WITH e AS (
        SELECT sae_id, feature, bool_or(text IS NOT NULL) AS explained, bool_or(masked) AS masked,
               bool_and(error IS NOT NULL) AS failed
        FROM explanations GROUP BY ALL
    ), f AS (
        SELECT f.sae_id, a.layer, f.feature, coalesce(e.explained, false) AS explained,
               coalesce(e.masked, false) AS masked, coalesce(e.failed, false) AS failed,
               s.value, s.chance, s.lookup, s.gain_low, s.gain_high, s.sae_id IS NOT NULL AS tried, d.effect,
               concat_ws(' by ', s.method, s.simulator) AS method,
               concat_ws('/', s.method, s.simulator, s.settings_hash) AS way
        FROM features f JOIN saes a USING (sae_id) LEFT JOIN e USING (sae_id, feature)
        LEFT JOIN headline_scores s USING (sae_id, feature) LEFT JOIN feature_effects d USING (sae_id, feature)
    )
"""
_FIGURES = """
    count(*), count(*) FILTER (explained), count(*) FILTER (masked), count(*) FILTER (failed),
    count(value), count(*) FILTER (tried AND value IS NULL),
    CASE WHEN alike THEN avg(value ORDER BY value) END, CASE WHEN alike THEN quantile_cont(value, 0.1) END,
    CASE WHEN alike THEN quantile_cont(value, 0.5) END, CASE WHEN alike THEN quantile_cont(value, 0.9) END,
    CASE WHEN alike THEN avg(chance ORDER BY chance) END, CASE WHEN alike THEN avg(lookup ORDER BY lookup) END,
    CASE WHEN count(lookup) > 0 THEN count(*) FILTER (gain_low > 0) END,
    CASE WHEN count(lookup) > 0 THEN count(*) FILTER (gain_high < 0) END,
    CASE WHEN alike THEN any_value(method) FILTER (tried) END,
    CASE WHEN count(effect) > 0 THEN count(*) FILTER (effect = 'yes') END, nullif(count(effect), 0)
""".replace("alike", "count(DISTINCT way) FILTER (tried) = 1")
"""Several SAEs may be scored in several ways; a figure over them all would compare what cannot be compared."""


def figures_by_sae(db: Db) -> list[Row]:
    """sae_id, layer, then the figures of `figures`, one row per SAE."""
    return rows(db, f"{_GROUPED} SELECT sae_id, any_value(layer), {_FIGURES} FROM f GROUP BY 1 ORDER BY 2, 1")


def figures_by_layer(db: Db) -> list[Row]:
    """layer, then the figures, one row per layer."""
    return rows(db, f"{_GROUPED} SELECT layer, {_FIGURES} FROM f GROUP BY 1 ORDER BY 1 NULLS LAST")


def figures_by_tag(db: Db, groups: Mapping[str, str]) -> list[Row]:
    """The figures by group of tags (a domain), over the features with at least one tag of the group.

    Args:
        db: An open store.
        groups: Group of every tag.
    """
    db.register("_groups", _group_table(groups))
    try:
        return rows(
            db,
            f"{_GROUPED}, g AS (SELECT DISTINCT t.sae_id, t.feature, _groups.place FROM live_tags t"
            f" JOIN _groups USING (tag)) SELECT g.place, {_FIGURES} FROM f JOIN g USING (sae_id, feature)"
            " GROUP BY 1 ORDER BY 1",
        )
    finally:
        db.unregister("_groups")


def _group_table(groups: Mapping[str, str]) -> ArrowTable:
    return pa.table(
        {"tag": pa.array(groups.keys(), pa.string()), "place": pa.array(groups.values(), pa.string())}
    )


def all_tags(db: Db) -> list[Row]:
    """tag, number of features; most frequent first."""
    return rows(
        db,
        "SELECT tag, count(DISTINCT (sae_id, feature)) AS n FROM live_tags GROUP BY 1 ORDER BY n DESC, 1",
    )


def scores_by_layer(db: Db) -> list[Row]:
    """layer, score: a row a scored feature, of layers that are scored in one way."""
    return rows(
        db,
        f"{_GROUPED} SELECT layer, value FROM f WHERE value IS NOT NULL"
        " QUALIFY min(way) OVER (PARTITION BY layer) = max(way) OVER (PARTITION BY layer) ORDER BY 1 NULLS LAST, 2",
    )


def scores_by_tag(db: Db, groups: Mapping[str, str]) -> list[Row]:
    """group, score: a row a scored feature and group of which it has a tag, of groups that are scored in one way."""
    db.register("_groups", _group_table(groups))
    try:
        return rows(
            db,
            f"{_GROUPED}, g AS (SELECT DISTINCT t.sae_id, t.feature, _groups.place FROM live_tags t"
            " JOIN _groups USING (tag)) SELECT g.place, f.value FROM f JOIN g USING (sae_id, feature)"
            " WHERE f.value IS NOT NULL"
            " QUALIFY min(way) OVER (PARTITION BY g.place) = max(way) OVER (PARTITION BY g.place) ORDER BY 1, 2",
        )
    finally:
        db.unregister("_groups")


def comparable(db: Db) -> list[Row]:
    """sae_id, index, explanation, score, low, high, tags, effect: a row per feature of which something is known."""
    return rows(
        db,
        'SELECT sae_id, "index", explanation, score, score_low, score_high, tags, effect FROM catalog'
        " WHERE explanation IS NOT NULL OR score IS NOT NULL OR len(tags) > 0 OR effect IS NOT NULL ORDER BY 1, 2",
    )


def concept_coverage(db: Db) -> list[Row]:
    """concept_id, domain, leaf, layer, sae_id, candidates, explained ones, best score.

    One row per concept and SAE that was selected on it; concepts that no SAE was selected on have a row without SAE.
    """
    return rows(
        db,
        """
        WITH saes_used AS (SELECT DISTINCT sae_id FROM feature_concepts), found AS (
            SELECT c.concept_id, c.sae_id, count(DISTINCT c.feature) AS candidates,
                   count(DISTINCT c.feature) FILTER (k.explanation IS NOT NULL AND k.explanation <> '***') AS explained,
                   max(k.score) AS best
            FROM feature_concepts c LEFT JOIN catalog k ON k.sae_id = c.sae_id AND k."index" = c.feature
            WHERE c.candidate GROUP BY 1, 2
        )
        SELECT p.concept_id, p.domain, p.leaf, s.layer, u.sae_id, coalesce(f.candidates, 0),
               coalesce(f.explained, 0), f.best
        FROM concepts p LEFT JOIN saes_used u ON true LEFT JOIN saes s USING (sae_id)
        LEFT JOIN found f ON f.concept_id = p.concept_id AND f.sae_id = u.sae_id
        ORDER BY p.domain, p.concept_id, s.layer, u.sae_id
        """,
    )


def document_coverage(db: Db, document_ids: Sequence[str], min_score: float | None) -> list[Row]:
    """document_id, SAE, layer, whole, explained features that fire strongly in it, the strongest of them.

    Strongly: at least the feature's own 0.9 quantile. One row per document and SAE that was harvested on it.
    """
    db.register("_asked", pa.table({"document_id": pa.array(list(document_ids), pa.string())}))
    try:
        return rows(
            db,
            """
            WITH known AS (
                SELECT d.document_id, d.whole, d.harvest_key, hs.sae_key, s.sae_id, s.layer
                FROM documents d SEMI JOIN _asked USING (document_id)
                JOIN harvest_saes hs USING (harvest_key)
                JOIN saes s USING (sae_key)
            ), strong AS (
                SELECT k.document_id, k.sae_key, a.feature, max(a.value) AS maximum
                FROM known k JOIN windows w USING (harvest_key, document_id)
                JOIN activations a ON a.sae_key = k.sae_key AND a.window_id = w.window_id
                JOIN features f ON f.sae_id = k.sae_id AND f.feature = a.feature
                JOIN catalog c ON c.sae_id = k.sae_id AND c."index" = a.feature
                WHERE a.value >= f.q90 AND c.explanation IS NOT NULL AND c.explanation <> '***'
                  AND (CAST(? AS DOUBLE) IS NULL OR c.score >= ?)
                GROUP BY ALL
            )
            SELECT k.document_id, k.sae_id, k.layer, k.whole, count(s.feature), arg_max(s.feature, s.maximum)
            FROM known k LEFT JOIN strong s USING (document_id, sae_key)
            GROUP BY ALL ORDER BY 1, 3, 2
            """,
            [min_score, min_score],
        )
    finally:
        db.unregister("_asked")

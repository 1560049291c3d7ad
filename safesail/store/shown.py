"""All that a store knows of one feature."""

from safesail.domain.ids import FeatureId
from safesail.errors import NotFoundError
from safesail.store.sql import Db, Row, one, rows

SCORE_COLUMNS = """
    explanation_id, method, simulator, value, low, high, chance, auc, balanced_accuracy, n_windows,
    coalesce(reason, error), lookup, CASE WHEN lookup IS NULL THEN NULL WHEN gain_low > 0 THEN 'yes'
    WHEN gain_high < 0 THEN 'no' ELSE 'not shown' END
"""


def feature_row(db: Db, feature: FeatureId) -> Row:
    """model_id, hook, layer, d_sae, architecture, n_tokens, density, mean, maximum, q999, top_tokens.

    Raises:
        NotFoundError: no such feature, with the SAEs there are.
    """
    row = one(
        db,
        "SELECT s.model_id, s.hook, s.layer, s.d_sae, s.architecture, f.n_tokens, f.density, f.mean, f.maximum,"
        " f.q999, f.top_tokens FROM features f JOIN saes s USING (sae_id) WHERE f.sae_id = ? AND f.feature = ?",
        [feature.sae_id, feature.index],
    )
    if row is None:
        known = [str(r[0]) for r in rows(db, "SELECT sae_id FROM saes ORDER BY 1 LIMIT 8")]
        raise NotFoundError(
            f"the catalog has no feature {feature}; its SAEs are {', '.join(known) or 'none yet'}"
        )
    return row


def explanation_rows(db: Db, feature: FeatureId) -> list[Row]:
    """explanation_id, text, masked, lang, explainer, origin, confidence, error, message; newest first."""
    return rows(
        db,
        "SELECT explanation_id, text, masked, lang, explainer, origin, confidence, error, message"
        " FROM explanations WHERE sae_id = ? AND feature = ? ORDER BY ordinal DESC",
        [feature.sae_id, feature.index],
    )


def score_rows(db: Db, feature: FeatureId) -> list[Row]:
    """Columns of `SCORE_COLUMNS`; newest first."""
    return rows(
        db,
        f"SELECT {SCORE_COLUMNS} FROM scores WHERE sae_id = ? AND feature = ? ORDER BY ordinal DESC",
        [feature.sae_id, feature.index],
    )


def tag_rows(db: Db, feature: FeatureId) -> list[Row]:
    """tag, source, severity; in the order in which they were given."""
    return rows(
        db,
        "SELECT tag, source, severity FROM live_tags WHERE sae_id = ? AND feature = ? ORDER BY ordinal",
        [feature.sae_id, feature.index],
    )


def concept_rows(db: Db, feature: FeatureId) -> list[Row]:
    """concept_id, frequency, swapped, n_pairs, auc_pairs, auc_wide; of concepts that the feature tells apart."""
    return rows(
        db,
        "SELECT concept_id, max(frequency), min(swapped), max(n_pairs), max(auc_pairs), max(auc_wide)"
        " FROM feature_concepts LEFT JOIN separations USING (selection_id, sae_id, concept_id, feature)"
        " WHERE sae_id = ? AND feature = ? AND candidate GROUP BY 1 ORDER BY 2 DESC, 1",
        [feature.sae_id, feature.index],
    )


def exemplar_rows(db: Db, feature: FeatureId, limit: int) -> list[Row]:
    """document_id, start, split, tokens, positions, values of the strongest windows; strongest first."""
    return rows(
        db,
        """
        WITH strongest AS (
            SELECT * FROM active_windows
            WHERE sae_key = (SELECT sae_key FROM saes WHERE sae_id = $sae_id) AND feature = $feature
            ORDER BY maximum DESC, window_id LIMIT $limit
        )
        SELECT w.document_id, w.start, w.split, w.tokens, s.positions, s.activations
        FROM strongest s JOIN windows w USING (harvest_key, window_id)
        ORDER BY s.maximum DESC, w.document_id, w.start
        """,
        {"sae_id": feature.sae_id, "feature": feature.index, "limit": limit},
    )

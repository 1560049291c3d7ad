"""All that a store knows of one feature."""

import numpy as np

from safesail.domain.ids import FeatureId
from safesail.errors import NotFoundError
from safesail.store.catalog import LIVE_TAGS
from safesail.store.connection import Db
from safesail.store.sql import Row, one, rows


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
    """explanation_id, method, simulator, value, low, high, chance, auc, balanced_accuracy, n_windows, reason."""
    return rows(
        db,
        "SELECT explanation_id, method, simulator, value, low, high, chance, auc, balanced_accuracy, n_windows,"
        " coalesce(reason, error) FROM scores WHERE sae_id = ? AND feature = ? ORDER BY ordinal DESC",
        [feature.sae_id, feature.index],
    )


def tag_rows(db: Db, feature: FeatureId) -> list[Row]:
    """tag, source, severity; in the order in which they were given."""
    return rows(
        db,
        f"SELECT tag, source, severity FROM ({LIVE_TAGS}) WHERE sae_id = ? AND feature = ? ORDER BY place",
        [feature.sae_id, feature.index],
    )


def concept_rows(db: Db, feature: FeatureId) -> list[Row]:
    """concept_id, frequency, swapped, n_pairs; of concepts that the feature tells apart."""
    return rows(
        db,
        "SELECT concept_id, max(frequency), min(swapped), max(n_pairs) FROM feature_concepts"
        " WHERE sae_id = ? AND feature = ? AND candidate GROUP BY 1 ORDER BY 2 DESC, 1",
        [feature.sae_id, feature.index],
    )


def exemplar_rows(db: Db, feature: FeatureId, limit: int) -> list[Row]:
    """document_id, start, split, tokens, positions, values of the strongest windows; strongest first.

    Short statements over integer keys: planning one that joins it all takes longer than running it.
    """
    keys = one(
        db,
        "SELECT sae_key, harvest_key, n_ctx FROM saes JOIN harvest_saes USING (sae_key)"
        " JOIN harvests USING (harvest_key) WHERE sae_id = ?",
        [feature.sae_id],
    )
    if keys is None:
        return []
    sae_key, harvest_key, n_ctx = (int(key) for key in keys)
    strongest = _strongest(db, (sae_key, feature.index), n_ctx, limit)
    windows = rows(
        db,
        "SELECT w.window_id, w.document_id, w.start, w.split, w.tokens FROM windows w"
        " JOIN (SELECT unnest(CAST(? AS BIGINT[])) AS window_id) USING (window_id) WHERE w.harvest_key = ?",
        [list(strongest), harvest_key],
    )
    windows.sort(key=lambda w: (-max(strongest[w[0]][1]), w[1], w[2]))
    return [(*place, *strongest[window_id]) for window_id, *place in windows]


def _strongest(
    db: Db, key: tuple[int, int], n_ctx: int, limit: int
) -> dict[int, tuple[list[int], list[float]]]:
    """By window_id: positions and values of the feature `key` (SAE's key, index) in its strongest windows."""
    found = db.execute(
        "SELECT token, value FROM activations WHERE sae_key = ? AND feature = ?", list(key)
    ).fetchnumpy()
    order = np.argsort(found["token"], kind="stable")
    token, value = np.asarray(found["token"])[order], np.asarray(found["value"])[order]
    if not len(token):
        return {}
    window_id, start = np.unique(token // n_ctx, return_index=True)
    stop = np.append(start[1:], len(token))
    top = np.lexsort((window_id, -np.maximum.reduceat(value, start)))[:limit]
    return {
        int(window_id[i]): ((token[a:b] % n_ctx).tolist(), value[a:b].tolist())
        for i, a, b in zip(top, start[top], stop[top], strict=True)
    }

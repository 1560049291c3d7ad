"""What exporters read of a store."""

from collections.abc import Generator

from safesail.store.catalog import LIVE_TAGS
from safesail.store.connection import Db
from safesail.store.sql import Row, rows


def export_rows(db: Db, origin: str | None) -> list[Row]:
    """Explanations in the order in which they were written, with their best score and the feature's tags.

    Rows: explanation_id, sae_id, model_id, layer, hook, feature, text, masked, lang, explainer, origin, error,
    message, density, maximum, score, low, high, chance, tags.

    Args:
        db: An open store.
        origin: Only explanations from there, and tags of that source.
    """
    return rows(
        db,
        f"""
        WITH t AS (
            SELECT sae_id, feature, list(tag ORDER BY first) AS tags FROM (
                SELECT sae_id, feature, tag, min(place) AS first FROM ({LIVE_TAGS})
                WHERE CAST(? AS TEXT) IS NULL OR source = ? OR starts_with(source, concat(?, '/')) GROUP BY ALL)
            GROUP BY ALL
        ), c AS (
            SELECT * FROM scores QUALIFY row_number() OVER (
                PARTITION BY explanation_id ORDER BY (value IS NULL), ordinal DESC) = 1
        )
        SELECT e.explanation_id, e.sae_id, s.model_id, s.layer, s.hook, e.feature, e.text, e.masked, e.lang,
               e.explainer, e.origin, e.error, e.message, f.density, f.maximum, c.value, c.low, c.high, c.chance,
               coalesce(t.tags, [])
        FROM explanations e JOIN saes s USING (sae_id) JOIN features f USING (sae_id, feature)
        LEFT JOIN c USING (explanation_id)
        LEFT JOIN t ON t.sae_id = e.sae_id AND t.feature = e.feature
        WHERE CAST(? AS TEXT) IS NULL OR e.origin = ?
        ORDER BY e.ordinal
        """,
        [origin, origin, origin, origin, origin],
    )


def exported_windows(db: Db, sae_id: str, limit: int) -> Generator[Row, None, None]:
    """feature, tokens, positions, values of the strongest `limit` windows of an SAE's explained features."""
    yield from rows(
        db,
        """
        WITH active AS (
            SELECT a.feature, hs.harvest_key, a.token // h.n_ctx AS window_id, max(a.value) AS maximum,
                   list(CAST(a.token % h.n_ctx AS INTEGER) ORDER BY a.token) AS positions,
                   list(a.value ORDER BY a.token) AS found
            FROM activations a JOIN harvest_saes hs USING (sae_key) JOIN harvests h USING (harvest_key)
            WHERE a.sae_key = (SELECT sae_key FROM saes WHERE sae_id = ?)
              AND a.feature IN (SELECT feature FROM explanations WHERE sae_id = ?)
            GROUP BY a.feature, hs.harvest_key, window_id
            QUALIFY row_number() OVER (PARTITION BY a.feature ORDER BY max(a.value) DESC, window_id) <= ?
        )
        SELECT a.feature, w.tokens, a.positions, a.found FROM active a JOIN windows w USING (harvest_key, window_id)
        ORDER BY a.feature, a.maximum DESC, a.window_id
        """,
        [sae_id, sae_id, limit],
    )

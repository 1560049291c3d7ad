"""What exporters read of a store."""

from collections.abc import Generator
from dataclasses import dataclass

from safesail.store.connection import Db
from safesail.store.sql import rows


@dataclass(frozen=True)
class ExportRow:
    """One explanation, its feature, and its score where it is of the catalog's kind."""

    explanation_id: str
    sae_id: str
    model_id: str
    layer: int | None
    hook: str
    index: int
    text: str | None
    masked: bool
    lang: str
    explainer: str
    origin: str
    error: str | None
    message: str | None
    density: float | None
    maximum: float | None
    score: float | None
    low: float | None
    high: float | None
    chance: float | None
    tags: tuple[str, ...]


def export_rows(db: Db, origin: str | None) -> list[ExportRow]:
    """Explanations in the order in which they were written.

    Args:
        db: An open store.
        origin: Only explanations from there, and tags of that source.
    """
    features = rows(
        db,
        """
        WITH t AS (
            SELECT sae_id, feature, list(tag ORDER BY first) AS tags FROM (
                SELECT sae_id, feature, tag, min(ordinal) AS first FROM live_tags
                WHERE CAST(? AS TEXT) IS NULL OR source = ? OR starts_with(source, concat(?, '/')) GROUP BY ALL)
            GROUP BY ALL
        ), c AS (
            SELECT scores.* FROM scores JOIN headline_methods USING (sae_id, method, simulator, settings_hash)
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
    return [ExportRow(*cells, tags=tuple(tags)) for *cells, tags in features]


def model_layers(db: Db, model_id: str) -> int | None:
    """Layers of a subject model; None where nobody said."""
    selected = rows(db, "SELECT n_layers FROM subject_models WHERE model_id = ?", [model_id])
    return None if not selected else selected[0][0]


LensCells = tuple[list[str], list[float], list[str], list[float]]
"""Top tokens and their logits, bottom tokens and theirs."""


def exported_lens(db: Db, sae_id: str) -> dict[int, LensCells]:
    """The logit lens of an SAE's features, as far as it is stored."""
    stored = rows(
        db,
        "SELECT feature, top_tokens, top_logits, bottom_tokens, bottom_logits FROM logit_lens WHERE sae_id = ?",
        [sae_id],
    )
    return {int(feature): (top, top_logits, bottom, bottom_logits) for feature, top, top_logits, bottom, bottom_logits
            in stored}  # fmt: skip


def exported_windows(
    db: Db, sae_id: str, limit: int
) -> Generator[tuple[int, list[str], list[float]], None, None]:
    """Feature, tokens and activations of the strongest `limit` windows of an SAE's explained features."""
    for feature, tokens, positions, activations in rows(
        db,
        """
        WITH active AS (
            SELECT * FROM active_windows
            WHERE sae_key = (SELECT sae_key FROM saes WHERE sae_id = ?)
              AND feature IN (SELECT feature FROM explanations WHERE sae_id = ?)
            QUALIFY row_number() OVER (PARTITION BY feature ORDER BY maximum DESC, window_id) <= ?
        )
        SELECT a.feature, w.tokens, a.positions, a.activations
        FROM active a JOIN windows w USING (harvest_key, window_id)
        ORDER BY a.feature, a.maximum DESC, a.window_id
        """,
        [sae_id, sae_id, limit],
    ):
        values = [0.0] * len(tokens)
        for position, value in zip(positions, activations, strict=True):
            values[position] = float(value)
        yield feature, tokens, values

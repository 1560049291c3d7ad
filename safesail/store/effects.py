"""What an intervention reads of a harvest, and the effects that it measures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pyarrow as pa

from safesail.domain.ids import FeatureId
from safesail.domain.records import Split
from safesail.errors import NotFoundError
from safesail.store.bulk import insert
from safesail.store.exemplars import HarvestedFeature
from safesail.store.sql import Db, one, rows, transaction

SHOWN_Q = 0.1
"""Largest q of an effect that counts as shown, as in the view `feature_effects`."""


@dataclass(frozen=True)
class Span:
    """Consecutive tokens of one document."""

    document_id: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class FeatureSize:
    """How often and how strongly a feature fires over its harvest."""

    density: float
    mean: float
    """Over all tokens, silent ones included."""

    maximum: float


@dataclass(frozen=True)
class MeasuredIn:
    """What effects were measured in: everything that can change a figure."""

    settings: str
    settings_hash: str
    seed: int
    fingerprint: str
    sae_sha256: str
    texts_id: str
    run_id: str


@dataclass(frozen=True)
class EffectRow:
    """One effect of one feature; columns of the table `effects`."""

    condition: str
    texts: str
    measure: str
    expected: int
    n_texts: int
    value: float | None = None
    null_value: float | None = None
    random_value: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    null_values: tuple[float, ...] | None = None
    strength: float | None = None
    cost: float | None = None
    tokens: tuple[str, ...] | None = None
    reason: str | None = None
    p: float | None = None
    q: float | None = None


_TYPES = {
    "null_values": pa.list_(pa.float64()), "tokens": pa.list_(pa.string()), "reason": pa.string(),
    **dict.fromkeys(
        ("value", "null_value", "random_value", "gain_low", "gain_high", "strength", "cost", "p", "q"), pa.float64()
    ),
}  # fmt: skip


def write_effects(db: Db, feature: FeatureId, measured: MeasuredIn, effects: Sequence[EffectRow]) -> None:
    """All effects of one feature, or none."""
    n = len(effects)
    columns: dict[str, Any] = {
        f.name: pa.array([getattr(e, f.name) for e in effects], _TYPES.get(f.name)) for f in fields(EffectRow)
    }
    columns |= {f.name: [getattr(measured, f.name)] * n for f in fields(MeasuredIn)}
    with transaction(db):
        insert(
            db,
            "effects",
            {"sae_id": [feature.sae_id] * n, "feature": [feature.index] * n, **columns},
            on_conflict="REPLACE",
        )


def measured_features(db: Db, sae_id: str, settings_hash: str) -> set[int]:
    """Features whose effects are stored, measured so."""
    stored = rows(
        db,
        "SELECT DISTINCT feature FROM effects WHERE sae_id = ? AND settings_hash = ?",
        [sae_id, settings_hash],
    )
    return {int(row[0]) for row in stored}


@dataclass(frozen=True)
class StoredNull:
    """A defined effect with its nulls."""

    feature: int
    condition: str
    texts: str
    measure: str
    expected: int
    value: float
    null_values: tuple[float, ...]


def stored_nulls(db: Db, sae_id: str, settings_hash: str) -> list[StoredNull]:
    """Every effect that has a value and nulls, in a fixed order."""
    stored = rows(
        db,
        "SELECT feature, condition, texts, measure, expected, value, null_values FROM effects"
        " WHERE sae_id = ? AND settings_hash = ? AND value IS NOT NULL AND null_values IS NOT NULL ORDER BY ALL",
        [sae_id, settings_hash],
    )
    return [StoredNull(*cells, null_values=tuple(nulls)) for *cells, nulls in stored]


def write_p_values(
    db: Db, sae_id: str, settings_hash: str, ranked: Mapping[tuple[int, str, str, str], tuple[float, float]]
) -> None:
    """P and q, by feature, condition, texts and measure."""
    if not ranked:
        return
    keys, values = list(ranked), list(ranked.values())
    names = ("feature", "condition", "texts", "measure")
    table = {name: [key[i] for key in keys] for i, name in enumerate(names)}
    db.register("_ranked", pa.table({**table, "p": [v[0] for v in values], "q": [v[1] for v in values]}))
    try:
        with transaction(db):
            db.execute(
                "UPDATE effects e SET p = r.p, q = r.q FROM _ranked r WHERE e.sae_id = ? AND e.settings_hash = ?"
                " AND e.feature = r.feature AND e.condition = r.condition AND e.texts = r.texts"
                " AND e.measure = r.measure",
                [sae_id, settings_hash],
            )
    finally:
        db.unregister("_ranked")


def feature_sizes(db: Db, sae_id: str) -> dict[int, FeatureSize]:
    """Of every feature of a finished harvest that fires.

    Raises:
        NotFoundError: there is none.
    """
    stored = rows(
        db,
        "SELECT feature, density, mean * density, maximum FROM features WHERE sae_id = ? AND density > 0"
        " AND maximum IS NOT NULL ORDER BY feature",
        [sae_id],
    )
    if not stored:
        raise NotFoundError(f"no harvest of {sae_id} in this store; run `safesail harvest` first")
    return {int(feature): FeatureSize(*sizes) for feature, *sizes in stored}


def strongest_spans(
    db: Db, f: HarvestedFeature, split: Split, *, before: int, after: int, limit: int
) -> list[Span]:
    """Round a feature's strongest token of each document: `before` tokens, that one, and `after` behind it.

    The documents in which it is strongest come first; those without so many tokens round it are passed over.
    """
    stored = rows(
        db,
        """
        SELECT w.document_id, list_slice(w.token_ids, a.position - $before + 1, a.position + 1 + $after)
        FROM activations a JOIN windows w USING (harvest_key, window_id)
        WHERE a.sae_key = $sae_key AND a.feature = $feature AND w.split = $split
          AND a.position >= $before AND a.position + 1 + $after <= len(w.token_ids)
        QUALIFY row_number() OVER (PARTITION BY w.document_id ORDER BY a.value DESC, w.start, a.position) = 1
        ORDER BY a.value DESC, w.document_id LIMIT $limit
        """,
        {
            "sae_key": f.sae_key, "feature": f.feature.index, "split": split, "before": before, "after": after,
            "limit": limit,
        },
    )  # fmt: skip
    return [Span(str(document), tuple(ids)) for document, ids in stored]


def random_spans(db: Db, sae_id: str, split: Split, *, n_tokens: int, limit: int, seed: int) -> list[Span]:
    """Beginnings of windows of an SAE's harvest, of as many documents, drawn by a hash."""
    stored = rows(
        db,
        """
        SELECT w.document_id, list_slice(w.token_ids, 1, $n)
        FROM windows w JOIN harvest_saes USING (harvest_key) JOIN saes s USING (sae_key)
        WHERE s.sae_id = $sae_id AND w.split = $split AND len(w.token_ids) >= $n
        QUALIFY row_number() OVER (PARTITION BY w.document_id ORDER BY w.start) = 1
        ORDER BY md5(concat_ws('/', $seed, w.document_id)) LIMIT $limit
        """,
        {"sae_id": sae_id, "split": split, "n": n_tokens, "limit": limit, "seed": str(seed)},
    )
    return [Span(str(document), tuple(ids)) for document, ids in stored]


def following_tokens(db: Db, f: HarvestedFeature, split: Split) -> dict[int, int]:
    """How often each token comes right after one on which the feature fires."""
    stored = rows(
        db,
        """
        SELECT w.token_ids[a.position + 2] AS following, count(*)
        FROM activations a JOIN windows w USING (harvest_key, window_id)
        WHERE a.sae_key = ? AND a.feature = ? AND w.split = ? AND a.position + 2 <= len(w.token_ids)
        GROUP BY 1 ORDER BY 1
        """,
        [f.sae_key, f.feature.index, split],
    )
    return {int(token): int(n) for token, n in stored}


def token_counts(db: Db, harvest_key: int, split: Split) -> dict[int, int]:
    """How often each token comes in a split."""
    stored = rows(
        db,
        "SELECT token, count(*) FROM (SELECT unnest(token_ids) AS token FROM windows"
        " WHERE harvest_key = ? AND split = ?) GROUP BY 1 ORDER BY 1",
        [harvest_key, split],
    )
    return {int(token): int(n) for token, n in stored}


def without_lens(db: Db, sae_id: str, features: Sequence[int]) -> list[int]:
    """Those of `features`, and of the explained features of an SAE, whose logit lens is not stored; in order."""
    stored = rows(
        db,
        "SELECT feature FROM (SELECT unnest(CAST($features AS INTEGER[])) AS feature UNION"
        " SELECT feature FROM explanations WHERE sae_id = $sae_id AND text IS NOT NULL)"
        " ANTI JOIN (SELECT feature FROM logit_lens WHERE sae_id = $sae_id) USING (feature) ORDER BY 1",
        {"features": list(features), "sae_id": sae_id},
    )
    return [int(row[0]) for row in stored]


def write_lens(db: Db, sae_id: str, columns: Mapping[str, Any]) -> None:
    """The logit lens of features that have none yet.

    Args:
        db: The open store.
        sae_id: Of the SAE.
        columns: feature, top_tokens, top_logits, bottom_tokens, bottom_logits.
    """
    with transaction(db):
        insert(db, "logit_lens", {"sae_id": [sae_id] * len(columns["feature"]), **columns})


_EFFECT_COLUMNS = (
    "condition", "texts", "measure", "value", "null_value", "random_value", "gain_low", "gain_high", "p", "q",
    "strength", "cost", "n_texts", "tokens", "reason",
)  # fmt: skip


def effect_rows(db: Db, feature: FeatureId) -> list[dict[str, Any]]:
    """Effects of a feature, of the settings whose effects stand in the catalog; the conditions in one order."""
    stored = rows(
        db,
        f"SELECT {', '.join(_EFFECT_COLUMNS)} FROM effects JOIN headline_effects USING (sae_id, settings_hash)"
        " WHERE sae_id = ? AND feature = ? ORDER BY condition, texts, measure",
        [feature.sae_id, feature.index],
    )
    return [dict(zip(_EFFECT_COLUMNS, cells, strict=True)) for cells in stored]


def effect_shown(db: Db, feature: FeatureId) -> str | None:
    """Whether a feature is shown to do something; None: not measured, or undefined."""
    shown = one(
        db,
        "SELECT effect FROM feature_effects WHERE sae_id = ? AND feature = ?",
        [feature.sae_id, feature.index],
    )
    return None if shown is None else str(shown[0])


def lens_row(db: Db, feature: FeatureId) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Top and bottom tokens of a feature's logit lens; empty where it is not stored."""
    stored = one(
        db,
        "SELECT top_tokens, bottom_tokens FROM logit_lens WHERE sae_id = ? AND feature = ?",
        [feature.sae_id, feature.index],
    )
    return ((), ()) if stored is None else (tuple(stored[0]), tuple(stored[1]))


def explained_outputs(db: Db, sae_id: str, settings_hash: str) -> dict[int, tuple[str, tuple[str, ...]]]:
    """By feature: its explanation, and the tokens that steering it makes likelier; where both are known."""
    stored = rows(
        db,
        "SELECT e.feature, x.text, e.tokens FROM effects e JOIN shown_explanations x USING (sae_id, feature)"
        " WHERE e.sae_id = ? AND e.settings_hash = ? AND e.measure = 'risen' AND e.tokens IS NOT NULL"
        " AND x.text IS NOT NULL ORDER BY 1",
        [sae_id, settings_hash],
    )
    return {int(feature): (str(text), tuple(tokens)) for feature, text, tokens in stored}


_SUMMARY = {
    "ablate": ("ablate", "firing", "log_odds_followers"),
    "steer": ("steer", "neutral", "log_odds_followers"),
    "lens": ("steer", "neutral", "log_odds_lens"),
}
"""What is shown of a feature at a glance."""


def effect_summary(
    db: Db, features: Sequence[FeatureId], settings_hash: Mapping[str, str]
) -> list[dict[str, Any]]:
    """One row per feature: is it shown to do something, by how much more than its nulls, at what strength and cost.

    Args:
        db: The open store.
        features: Which, in order.
        settings_hash: By SAE, as it was measured.
    """
    return [_summary(db, feature, settings_hash[feature.sae_id]) for feature in features]


def _summary(db: Db, feature: FeatureId, settings_hash: str) -> dict[str, Any]:
    stored = {
        tuple(key): figures
        for *key, figures in (
            (condition, texts, measure, (value, null, q, strength, cost, reason, tokens))
            for condition, texts, measure, value, null, q, strength, cost, reason, tokens in rows(
                db,
                "SELECT condition, texts, measure, value, null_value, q, strength, cost, reason, tokens FROM effects"
                " WHERE sae_id = ? AND feature = ? AND settings_hash = ?",
                [feature.sae_id, feature.index, settings_hash],
            )
        )
    }
    row: dict[str, Any] = {"feature": str(feature), "effect": effect_shown(db, feature)}
    for name, key in _SUMMARY.items():
        value, null, q, *_ = stored.get(key, (None,) * 7)
        row |= {name: value, f"{name}_null": null, f"{name}_q": q}
    *_, strength, cost, reason, tokens = stored.get(("steer", "neutral", "risen"), (None,) * 7)
    return {**row, "strength": strength, "cost": cost, "likelier": list(tokens or ()), "reason": reason}

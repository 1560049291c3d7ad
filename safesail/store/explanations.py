"""Explanations, scores and tags: how they are written and read."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safesail.domain.ids import FeatureId
from safesail.domain.records import Explanation, Failed, Score
from safesail.errors import NotFoundError
from safesail.store.bulk import insert
from safesail.store.connection import Db
from safesail.store.sql import one, rows, transaction

NOBODY = "none"
"""Stands for the explainer where a feature failed before any was asked."""


@dataclass(frozen=True)
class Authors:
    """Whose explanations are meant."""

    origin: str = "run"
    """Our own runs, or the name of the catalog that was imported."""

    explainer: str | None = None
    """Model that wrote them, as the store names it; None: any."""


OWN = Authors()
_READABLE = "error IS NULL AND text IS NOT NULL AND origin = ? AND (CAST(? AS TEXT) IS NULL OR explainer = ?)"

_FIGURES = (
    "method", "simulator", "value", "low", "high", "chance", "auc", "balanced_accuracy", "n_units", "n_windows",
    "reason", "error", "tokens", "prompt_hash", "lookup", "gain_low", "gain_high",
)  # fmt: skip
"""Columns of `scores` that are fields of `Score`."""


@dataclass(frozen=True)
class ScoreOrigin:
    """How scores were made: rows made differently stand beside each other."""

    run_id: str
    settings: Mapping[str, Any]
    """Everything besides explanation, method and simulator that changes a score: windows, prompt, seeds."""

    @property
    def settings_json(self) -> str:
        """The settings as they are stored."""
        return json.dumps(self.settings, sort_keys=True, ensure_ascii=False)

    @property
    def settings_hash(self) -> str:
        """Their identity."""
        return hashlib.sha256(self.settings_json.encode()).hexdigest()[:16]


def explanation_id(explanation: Explanation) -> str:
    """Identity of an explanation: as the store has it, or a hash of feature, text, explainer and prompt."""
    if explanation.stored_id is not None:
        return explanation.stored_id
    return _hash(explanation.feature, explanation.text, explanation.explainer, explanation.prompt_hash)


def record_explanation(db: Db, outcome: Explanation | Failed, *, origin: str = "run") -> str:
    """Store an explanation with its tags, or a failure; returns the row's id.

    The same explanation again changes nothing. A feature has one failure at most, the newest, and none once
    it is explained.
    """
    failed_id = _hash(outcome.feature, "failed")
    row: dict[str, Any] = {
        "sae_id": outcome.feature.sae_id,
        "feature": outcome.feature.index,
        "origin": origin,
    }
    row |= {"prompt_hash": outcome.prompt_hash}
    if isinstance(outcome, Failed):
        row |= {"explanation_id": failed_id, "explainer": outcome.explainer or NOBODY}
        _write(db, "explanations", row | {"error": outcome.error, "message": outcome.message}, "REPLACE")
        return failed_id
    identity = explanation_id(outcome)
    if _is_stored(db, outcome, identity, failed_id):
        return identity
    row |= {"explanation_id": identity, "explainer": outcome.explainer, "text": outcome.text}
    with transaction(db):
        db.execute("DELETE FROM explanations WHERE explanation_id = ?", [failed_id])
        _write(db, "explanations", row | {"confidence": outcome.confidence}, "IGNORE")
        record_tags(db, outcome.feature, outcome.tags, source="explainer")
    return identity


def _is_stored(db: Db, explanation: Explanation, identity: str, failed_id: str) -> bool:
    """Whether an explanation and all its tags are there, and no failure: nearly always where a run is repeated."""
    of = explanation.feature
    counts = one(
        db,
        "SELECT count(*) FILTER (explanation_id = $identity), count(*) FILTER (explanation_id = $failed),"
        " (SELECT count(*) FROM tags WHERE sae_id = $sae_id AND feature = $feature AND source = 'explainer'"
        " AND list_contains($tags, tag)) FROM explanations WHERE explanation_id IN ($identity, $failed)",
        {
            "identity": identity, "failed": failed_id, "sae_id": of.sae_id, "feature": of.index,
            "tags": list(explanation.tags),
        },
    )  # fmt: skip
    return counts == (1, 0, len(set(explanation.tags)))


def record_score(db: Db, explanation: Explanation, score: Score, origin: ScoreOrigin) -> None:
    """Store how an explanation was scored: a value, an undefined value with its reason, or a failure.

    Only a score of the same explanation by the same method, simulator and settings is replaced, and a chance line
    that it has is kept where the new one has none. The same one again changes nothing.
    """
    assert score.feature == explanation.feature, "a score of another feature"
    key = {
        "explanation_id": explanation_id(explanation),
        "method": score.method,
        "simulator": score.simulator,
        "settings_hash": origin.settings_hash,
    }
    figures = {name: getattr(score, name) for name in _FIGURES}
    where = " AND ".join(f"{name} = ?" for name in key)
    stored = one(db, f"SELECT {', '.join(_FIGURES)} FROM scores WHERE {where}", list(key.values()))
    if stored is not None and score.chance is None:
        figures["chance"] = stored[_FIGURES.index("chance")]
    if stored == tuple(figures.values()):
        return
    row = {"sae_id": score.feature.sae_id, "feature": score.feature.index} | key | figures
    _write(db, "scores", row | {"run_id": origin.run_id, "settings": origin.settings_json}, "REPLACE")


def record_tags(
    db: Db, feature: FeatureId, tags: Sequence[str], *, source: str, severity: int | None = None
) -> None:
    """Add tags to a feature; those it has from the same source stay as they are."""
    record_all_tags(db, {feature: tags}, source=source, severity=severity)


def record_all_tags(
    db: Db, tags: Mapping[FeatureId, Sequence[str]], *, source: str, severity: int | None = None
) -> None:
    """Add tags to several features; those that one has from the same source stay as they are."""
    pairs = [(feature, tag) for feature, of in tags.items() for tag in of]
    insert(
        db,
        "tags",
        {
            "sae_id": [feature.sae_id for feature, _ in pairs],
            "feature": [feature.index for feature, _ in pairs],
            "tag": [tag for _, tag in pairs],
            "source": [source] * len(pairs),
            "severity": [severity] * len(pairs),
        },
        on_conflict="IGNORE",
    )


def read_tags(db: Db, feature: FeatureId) -> dict[str, tuple[str, ...]]:
    """A feature's tags by source, both in alphabetical order."""
    by_source = rows(
        db,
        "SELECT source, list(tag ORDER BY tag) FROM tags WHERE sae_id = ? AND feature = ?"
        " GROUP BY source ORDER BY source",
        [feature.sae_id, feature.index],
    )
    return {str(source): tuple(tags) for source, tags in by_source}


def read_explanation(db: Db, feature: FeatureId, by: Authors = OWN) -> Explanation:
    """The newest explanation of a feature by some authors, with the explainer's tags.

    Raises:
        NotFoundError: it has none, or a masked one only.
    """
    row = one(
        db,
        "SELECT explanation_id, text, explainer, coalesce(prompt_hash, ''), confidence FROM explanations"
        f" WHERE sae_id = ? AND feature = ? AND {_READABLE} ORDER BY (lang = 'en') DESC, ordinal DESC LIMIT 1",
        [feature.sae_id, feature.index, by.origin, by.explainer, by.explainer],
    )
    if row is None:
        raise NotFoundError(f"no explanation of {feature} in this store; run `safesail explain` first")
    identity, text, explainer, prompt_hash, confidence = row
    tags = read_tags(db, feature).get("explainer", ())
    return Explanation(feature, text, tags, explainer, prompt_hash, confidence, stored_id=identity)


def read_explanations(db: Db, explanation_ids: Sequence[str]) -> dict[str, Explanation]:
    """Explanations by id, without their tags; those that cannot be read are left out."""
    selected = rows(
        db,
        "SELECT explanation_id, sae_id, feature, text, explainer, coalesce(prompt_hash, ''), confidence"
        " FROM explanations WHERE text IS NOT NULL AND list_contains(?, explanation_id)",
        [list(explanation_ids)],
    )
    return {
        str(identity): Explanation(FeatureId(sae_id, feature), text, (), *rest, stored_id=str(identity))
        for identity, sae_id, feature, text, *rest in selected
    }


def explained_features(db: Db, sae_id: str, by: Authors = OWN) -> list[int]:
    """Features of an SAE with an explanation by some authors that can be read, in the order they were written."""
    explained = rows(
        db,
        f"SELECT feature FROM explanations WHERE sae_id = ? AND {_READABLE} GROUP BY feature ORDER BY min(ordinal)",
        [sae_id, by.origin, by.explainer, by.explainer],
    )
    return [int(row[0]) for row in explained]


def authors_of(db: Db, sae_id: str) -> list[tuple[str, str, int]]:
    """Who wrote explanations of an SAE that can be read: origin, explainer, and of how many features."""
    selected = rows(
        db,
        "SELECT origin, explainer, count(DISTINCT feature) FROM explanations WHERE sae_id = ? AND text IS NOT NULL"
        " GROUP BY origin, explainer ORDER BY 3 DESC, 1, 2",
        [sae_id],
    )
    return [(str(origin), str(explainer), int(n)) for origin, explainer, n in selected]


def read_scores(
    db: Db, sae_id: str, *, method: str | None = None, simulator: str | None = None
) -> list[Score]:
    """Every score of an SAE's features, by feature, oldest first; of one method or simulator, or of all."""
    return _scores(
        db,
        "scores WHERE sae_id = ? AND coalesce(method = ?, true) AND coalesce(simulator = ?, true)"
        " ORDER BY feature, ordinal",
        [sae_id, method, simulator],
    )


def headline_scores(db: Db, sae_id: str) -> list[Score]:
    """The score of each of an SAE's features that the catalog shows, all made by one method, simulator and settings."""
    return _scores(db, "headline_scores WHERE sae_id = ? ORDER BY feature", [sae_id])


def _scores(db: Db, source: str, parameters: Sequence[str | None]) -> list[Score]:
    stored = rows(db, f"SELECT sae_id, feature, {', '.join(_FIGURES)} FROM {source}", parameters)
    return [
        Score(FeatureId(sae_id, feature), **dict(zip(_FIGURES, figures, strict=True)))
        for sae_id, feature, *figures in stored
    ]


def _write(db: Db, table: str, row: Mapping[str, Any], on_conflict: str) -> None:
    names, marks = ", ".join(row), ", ".join("?" * len(row))
    db.execute(f"INSERT OR {on_conflict} INTO {table} ({names}) VALUES ({marks})", list(row.values()))


def _hash(feature: FeatureId, *parts: str) -> str:
    text = json.dumps([feature.sae_id, feature.index, *parts], ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]

"""Explanations, scores and tags: how they are written, and what is still to do."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from safesail.domain.ids import FeatureId
from safesail.domain.records import Explanation, Failed, Score
from safesail.errors import NotFoundError
from safesail.store.bulk import insert
from safesail.store.connection import Db
from safesail.store.selection import candidate_features
from safesail.store.sql import one, rows, transaction

NOBODY = "none"
"""Stands for the explainer or simulator where an item failed before any was asked."""


@dataclass(frozen=True)
class ConfidentExplanation(Explanation):
    """An explanation with the explainer's own confidence in it."""

    confidence: float | None
    """In [0, 1]; None where it gave none."""


@dataclass(frozen=True)
class FailedExplanation(Failed):
    """A feature that could not be explained."""

    explainer: str
    prompt_hash: str


@dataclass(frozen=True)
class DetailedScore(Score):
    """A score with the figures beside it."""

    auc: float | None
    """Chance that an active unit is rated above a silent one, in [0, 1]; None where a side has no unit."""

    balanced_accuracy: float | None
    """In [0, 1]; None where a side has no unit."""

    tokens: int
    """LLM tokens billed for it, the chance line's left out; those of cached answers as billed then."""


@dataclass(frozen=True)
class FailedScore(Failed):
    """An explanation that could not be scored."""

    method: str
    simulator: str
    prompt_hash: str
    tokens: int


@dataclass(frozen=True)
class ScoredRow:
    """A row of `scores`."""

    feature: FeatureId
    method: str
    simulator: str
    value: float | None
    """None where undefined, with `reason`, or failed, with `error` too."""

    low: float | None
    high: float | None
    chance: float | None
    auc: float | None
    balanced_accuracy: float | None
    n_units: int | None
    n_windows: int | None
    reason: str | None
    error: str | None
    tokens: int | None


def explanation_id(explanation: Explanation) -> str:
    """Identity of an explanation: a hash of feature, text, explainer and prompt."""
    return _hash(explanation.feature, explanation.text, explanation.explainer, explanation.prompt_hash)


def record_explanation(db: Db, outcome: Explanation | Failed, *, origin: str = "run") -> str:
    """Store an explanation with its tags, or a failure; returns the row's id.

    The same explanation again changes nothing. A feature has one failure at most, the newest, and none once
    it is explained.
    """
    failed_id = _hash(outcome.feature, "failed")
    if isinstance(outcome, Failed):
        _write_failed(db, failed_id, outcome, origin)
        return failed_id
    identity = explanation_id(outcome)
    confidence = outcome.confidence if isinstance(outcome, ConfidentExplanation) else None
    with transaction(db):
        db.execute("DELETE FROM explanations WHERE explanation_id = ?", [failed_id])
        db.execute(
            "INSERT OR IGNORE INTO explanations"
            " (explanation_id, sae_id, feature, text, explainer, prompt_hash, origin, confidence)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [identity, outcome.feature.sae_id, outcome.feature.index, outcome.text, outcome.explainer,
             outcome.prompt_hash, origin, confidence],
        )  # fmt: skip
        record_tags(db, outcome.feature, outcome.tags, source="explainer")
    return identity


def record_score(db: Db, explanation: Explanation, outcome: Score | Failed) -> None:
    """Store how an explanation was scored: a value, an undefined value with its reason, or a failure.

    A score by the same method and simulator is replaced; the same one again changes nothing.
    """
    row = _score_row(explanation, outcome)
    names = ", ".join(row)
    held = one(
        db,
        f"SELECT {names} FROM scores WHERE explanation_id = ? AND method = ? AND simulator = ?",
        [row["explanation_id"], row["method"], row["simulator"]],
    )
    if held == tuple(row.values()):
        return
    marks = ", ".join("?" * len(row))
    db.execute(
        f"INSERT OR REPLACE INTO scores ({names}, ordinal) VALUES ({marks}, nextval('score_order'))",
        list(row.values()),
    )


def record_tags(
    db: Db, feature: FeatureId, tags: Sequence[str], *, source: str, severity: int | None = None
) -> None:
    """Add tags to a feature; those it has from the same source stay as they are."""
    insert(
        db,
        "tags",
        {
            "sae_id": [feature.sae_id] * len(tags),
            "feature": [feature.index] * len(tags),
            "tag": list(tags),
            "source": [source] * len(tags),
            "severity": [severity] * len(tags),
        },
        on_conflict="IGNORE",
    )


def read_tags(db: Db, feature: FeatureId) -> dict[str, tuple[str, ...]]:
    """A feature's tags by source, both in alphabetical order."""
    found = rows(
        db,
        "SELECT source, list(tag ORDER BY tag) FROM tags WHERE sae_id = ? AND feature = ?"
        " GROUP BY source ORDER BY source",
        [feature.sae_id, feature.index],
    )
    return {str(source): tuple(tags) for source, tags in found}


def read_explanation(db: Db, feature: FeatureId) -> Explanation:
    """The newest explanation of a feature, with the explainer's tags.

    Raises:
        NotFoundError: it has none, or a masked one only.
    """
    row = one(
        db,
        "SELECT text, explainer, coalesce(prompt_hash, ''), confidence FROM newest_explanations"
        " WHERE sae_id = ? AND feature = ? AND text IS NOT NULL",
        [feature.sae_id, feature.index],
    )
    if row is None:
        raise NotFoundError(f"no explanation of {feature} in this store; run `safesail explain` first")
    text, explainer, prompt_hash, confidence = row
    tags = read_tags(db, feature).get("explainer", ())
    return ConfidentExplanation(feature, text, tags, explainer, prompt_hash, confidence)


def explained_features(db: Db, sae_id: str) -> list[int]:
    """Features of an SAE with an explanation of our own runs that can be read, in the order they were written."""
    found = rows(
        db,
        "SELECT feature FROM explanations WHERE sae_id = ? AND error IS NULL AND text IS NOT NULL"
        " AND origin = 'run' GROUP BY feature ORDER BY min(ordinal)",
        [sae_id],
    )
    return [int(row[0]) for row in found]


def read_scores(db: Db, sae_id: str, *, method: str | None = None) -> list[ScoredRow]:
    """Scores of an SAE's features by feature, oldest first; of one method, or of all."""
    found = rows(
        db,
        """
        SELECT feature, method, simulator, value, low, high, chance, auc, balanced_accuracy, n_units,
               n_windows, reason, error, tokens
        FROM scores WHERE sae_id = ? AND coalesce(method = ?, true) ORDER BY feature, ordinal
        """,
        [sae_id, method],
    )
    return [ScoredRow(FeatureId(sae_id, row[0]), *row[1:]) for row in found]


def pending(
    db: Db, sae_id: str, *, method: str, selection_id: str | None = None, limit: int | None = None
) -> list[FeatureId]:
    """Candidate features without both an explanation and a score of it, the most distinguishing first.

    An undefined score is finished; a failed one is not.

    Args:
        db: The open store.
        sae_id: Key of the SAE.
        method: Method of the score, as stored.
        selection_id: That nominated the candidates; None: the SAE's newest.
        limit: At most this many.

    Raises:
        NotFoundError: the SAE has no selection.
    """
    done = {int(row[0]) for row in rows(
        db,
        """
        SELECT DISTINCT e.feature FROM explanations e JOIN scores s USING (explanation_id)
        WHERE e.sae_id = ? AND e.error IS NULL AND s.error IS NULL AND s.method = ?
        """,
        [sae_id, method],
    )}  # fmt: skip
    candidates = candidate_features(db, sae_id, selection_id=selection_id)
    left = [FeatureId(sae_id, c.feature) for c in candidates if c.feature not in done]
    return left[:limit]


def _write_failed(db: Db, identity: str, failed: Failed, origin: str) -> None:
    explainer, prompt_hash = NOBODY, None
    if isinstance(failed, FailedExplanation):
        explainer, prompt_hash = failed.explainer, failed.prompt_hash
    db.execute(
        "INSERT OR REPLACE INTO explanations"
        " (explanation_id, sae_id, feature, explainer, prompt_hash, origin, error, message)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [identity, failed.feature.sae_id, failed.feature.index, explainer, prompt_hash, origin,
         failed.error, failed.message],
    )  # fmt: skip


def _score_row(explanation: Explanation, outcome: Score | Failed) -> dict[str, str | float | int | None]:
    assert outcome.feature == explanation.feature, "a score of another feature"
    row: dict[str, str | float | int | None] = {
        "explanation_id": explanation_id(explanation),
        "sae_id": explanation.feature.sae_id,
        "feature": explanation.feature.index,
    }
    empty = dict.fromkeys(
        ("value", "low", "high", "chance", "auc", "balanced_accuracy", "n_units", "n_windows", "error")
    )
    if isinstance(outcome, Failed):
        known = isinstance(outcome, FailedScore)
        return row | empty | {
            "method": outcome.method if known else NOBODY,
            "simulator": outcome.simulator if known else NOBODY,
            "prompt_hash": outcome.prompt_hash if known else None,
            "tokens": outcome.tokens if known else None,
            "reason": outcome.message,
            "error": outcome.error,
        }  # fmt: skip
    detail = outcome if isinstance(outcome, DetailedScore) else None
    return row | empty | {
        "method": outcome.method,
        "simulator": outcome.simulator,
        "prompt_hash": outcome.prompt_hash,
        "value": outcome.value,
        "low": outcome.low,
        "high": outcome.high,
        "chance": outcome.chance,
        "auc": detail.auc if detail else None,
        "balanced_accuracy": detail.balanced_accuracy if detail else None,
        "n_units": outcome.n_units,
        "n_windows": outcome.n_windows,
        "reason": outcome.reason,
        "tokens": detail.tokens if detail else None,
    }  # fmt: skip


def _hash(feature: FeatureId, *parts: str) -> str:
    text = json.dumps([feature.sae_id, feature.index, *parts], ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]

"""What an audit of explanations reads: per SAE, origin and explainer."""

from dataclasses import dataclass

from safesail.store.connection import Db
from safesail.store.sql import one, rows

Method = tuple[str, str, str]
"""Method, simulator and settings of scores that may be compared with each other."""


@dataclass(frozen=True)
class TextCounts:
    """Explanations of one author, by what can be said without scoring them."""

    sae_id: str
    origin: str
    explainer: str
    explanations: int
    features: int
    readable: int
    empty: int
    masked: int
    failed: int
    duplicated: int
    """Readable ones whose text stands for another feature of the SAE too, in the same words."""

    shared_words: int
    """Readable ones of a feature with a readable one of another author, with which they share a word."""

    compared: int
    """Readable ones of a feature of which another author says something too."""


@dataclass(frozen=True)
class AuditedScore:
    """One score of one explanation."""

    sae_id: str
    origin: str
    explainer: str
    feature: int
    explanation_id: str
    value: float | None
    low: float | None
    high: float | None
    chance: float | None
    lookup: float | None
    gain_low: float | None
    gain_high: float | None
    error: str | None
    tokens: int | None


def text_counts(db: Db) -> list[TextCounts]:
    """Every author of every SAE, the largest first."""
    selected = rows(
        db,
        r"""
        WITH said AS (
            SELECT *, lower(trim(regexp_replace(text, '\s+', ' ', 'g'))) AS words FROM explanations
        ), repeated AS (
            SELECT sae_id, words FROM said WHERE words IS NOT NULL GROUP BY ALL HAVING count(DISTINCT feature) > 1
        ), bags AS (
            SELECT explanation_id, sae_id, feature, origin, explainer,
                   list_filter(list_distinct(regexp_extract_all(words, '\p{L}+')), lambda w: len(w) > 3) AS bag
            FROM said WHERE words IS NOT NULL
        ), met AS (
            SELECT a.explanation_id, bool_or(list_has_any(a.bag, b.bag)) AS shares
            FROM bags a JOIN bags b ON a.sae_id = b.sae_id AND a.feature = b.feature
                 AND (a.origin, a.explainer) <> (b.origin, b.explainer)
            WHERE len(a.bag) > 0 AND len(b.bag) > 0 GROUP BY 1
        )
        SELECT s.sae_id, s.origin, s.explainer, count(*), count(DISTINCT s.feature), count(s.text),
               count(*) FILTER (s.error = 'EmptyExplanation'), count(*) FILTER (s.masked),
               count(*) FILTER (s.error IS NOT NULL AND s.error <> 'EmptyExplanation'),
               count(*) FILTER (r.words IS NOT NULL), count(*) FILTER (m.shares), count(m.shares)
        FROM said s LEFT JOIN repeated r ON r.sae_id = s.sae_id AND r.words = s.words
        LEFT JOIN met m USING (explanation_id)
        GROUP BY s.sae_id, s.origin, s.explainer ORDER BY s.sae_id, 4 DESC, s.origin, s.explainer
        """,
    )
    return [TextCounts(*row) for row in selected]


def audit_method(db: Db, sae_id: str) -> Method | None:
    """The way of scoring by which most authors, and then most explanations, of an SAE have a value with an interval.

    Returns:
        None: no explanation has.
    """
    row = one(
        db,
        """
        SELECT c.method, c.simulator, c.settings_hash FROM scores c JOIN explanations e USING (explanation_id)
        WHERE c.sae_id = ? AND c.low IS NOT NULL GROUP BY ALL
        ORDER BY count(DISTINCT (e.origin, e.explainer)) DESC, count(DISTINCT explanation_id) DESC,
                 count(c.chance) DESC, max(c.ordinal) DESC LIMIT 1
        """,
        [sae_id],
    )
    return None if row is None else (str(row[0]), str(row[1]), str(row[2]))


def audited_scores(db: Db, sae_id: str, method: Method) -> list[AuditedScore]:
    """Scores of an SAE's explanations that were made in one way, feature by feature."""
    selected = rows(
        db,
        """
        SELECT c.sae_id, e.origin, e.explainer, c.feature, c.explanation_id, c.value, c.low, c.high, c.chance, c.lookup,
               c.gain_low, c.gain_high, c.error, c.tokens
        FROM scores c JOIN explanations e USING (explanation_id)
        WHERE c.sae_id = ? AND (c.method, c.simulator, c.settings_hash) = (?, ?, ?)
        ORDER BY c.feature, e.ordinal
        """,
        [sae_id, *method],
    )
    return [AuditedScore(*row) for row in selected]

"""What a selection stores: scores of SAEs, and which features distinguish which concepts."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from safesail.errors import NotFoundError
from safesail.store.bulk import Column, insert
from safesail.store.sql import Db, one, rows, transaction

NEAR = 0.7
"""Pairs of candidates with decoder directions at least this close are kept for later stages, which have no weights."""

RANKING = "detection"
"""The measure that SAEs are ranked by; see the selection stage's README."""

SECOND = "pair_isolation"
"""Ranks the SAEs of which `RANKING` is not known: one domain alone, or a selection by an earlier version."""

LOOSE = 0.7
"""A feature stands only loosely for a concept of which its mean AUC, on pairs and against other domains, is lower."""


@dataclass(frozen=True)
class SelectionRow:
    """One SAE held against one concept set with given settings."""

    selection_id: str
    sae_id: str
    concept_set: str
    """Hash of all pairs."""

    settings: Mapping[str, Any]
    l0: float | None
    """Mean active features per token on the pairs' texts."""

    fvu: float | None
    """Fraction of variance unexplained there; None for an SAE without decoder."""

    seconds: float
    """For this SAE alone: the subject model's share is not in it."""


@dataclass(frozen=True)
class ScoreRow:
    """One figure of one SAE, for a concept, a domain or all."""

    scope: str
    """`concept`, `domain` or `all`."""

    scope_id: str
    measure: str
    value: float | None
    low: float | None
    high: float | None
    """95 % bootstrap interval over pairs."""

    null_value: float | None
    """Expectation when each pair's sides are drawn at random."""

    above_null: float | None
    n_pairs: int
    reason: str | None
    """Why `value` is None."""


@dataclass(frozen=True)
class CandidateFeature:
    """A feature that distinguishes at least one concept."""

    feature: int
    concept_ids: tuple[str, ...]
    """Those it distinguishes, best first."""

    frequency: float
    """Of the best one: share of pairs in which it fires on q+ only."""

    swapped: float
    """Share in which it fires on q- only."""

    loose: tuple[str, ...] = ()
    """Those of `concept_ids` that it stands for only loosely."""


@dataclass(frozen=True)
class ScoredSae:
    """An SAE with a figure of its latest selection."""

    sae_id: str
    selection_id: str
    hook: str
    layer: int | None
    d_sae: int | None
    k: int | None
    l0: float | None
    fvu: float | None
    value: float | None
    low: float | None
    high: float | None
    null_value: float | None
    """Of the figure, where the sides of the pairs are drawn at random."""


def finished_selections(db: Db, selection_ids: Iterable[str]) -> set[str]:
    """Those of `selection_ids` that the store has."""
    result = rows(
        db, "SELECT selection_id FROM selections WHERE list_contains(?, selection_id)", [list(selection_ids)]
    )
    return {str(selection_id) for (selection_id,) in result}


@dataclass(frozen=True)
class SelectionPiece:
    """Some of what one SAE's selection records."""

    rows: Sequence[ScoreRow] = ()
    features: Mapping[str, Column] = field(default_factory=dict[str, Column])
    """Columns feature, concept_id, frequency, swapped, n_pairs and candidate."""

    separations: Mapping[str, Column] = field(default_factory=dict[str, Column])
    """Columns feature, concept_id, auc_pairs, auc_wide, readout_rank and scale."""


def write_selection(db: Db, selection: SelectionRow, pieces: Iterable[SelectionPiece]) -> None:
    """Record one SAE's selection whole or not at all.

    Args:
        db: The open store.
        selection: What was scored, and how.
        pieces: All that it records; one at a time is held.
    """
    names = list(ScoreRow.__dataclass_fields__)
    with transaction(db):
        db.execute(
            "INSERT INTO selections VALUES (?, ?, ?, ?, ?, ?, ?)",
            [selection.selection_id, selection.sae_id, selection.concept_set,
             json.dumps(dict(selection.settings), sort_keys=True), selection.l0, selection.fvu,
             selection.seconds],
        )  # fmt: skip
        for piece in pieces:
            columns: dict[str, Column] = {name: [getattr(row, name) for row in piece.rows] for name in names}
            insert(db, "sae_scores", {**_keys(selection, len(piece.rows)), **columns})
            for table, own in (("feature_concepts", piece.features), ("separations", piece.separations)):
                if own:
                    insert(db, table, {**_keys(selection, len(own["feature"])), **own})


def _keys(selection: SelectionRow, n: int) -> dict[str, Column]:
    return {"selection_id": [selection.selection_id] * n, "sae_id": [selection.sae_id] * n}


def read_scores(db: Db, selection_id: str, *, scope: str | None = None) -> list[ScoreRow]:
    """Figures of one selection, by scope and measure.

    Raises:
        NotFoundError: the store has no such selection.
    """
    if one(db, "SELECT 1 FROM selections WHERE selection_id = ?", [selection_id]) is None:
        raise NotFoundError(f"the store has no selection {selection_id!r}; run `safesail select-sae` first")
    result = rows(
        db,
        "SELECT scope, scope_id, measure, value, low, high, null_value, above_null, n_pairs, reason"
        " FROM sae_scores WHERE selection_id = ? AND coalesce(scope = ?, true) ORDER BY scope, scope_id, measure",
        [selection_id, scope],
    )
    return [ScoreRow(*row) for row in result]


def latest_selection(db: Db, sae_id: str) -> str:
    """Id of the newest selection of an SAE.

    Raises:
        NotFoundError: it has none.
    """
    row = one(db, "SELECT selection_id FROM selections WHERE sae_id = ? ORDER BY rowid DESC", [sae_id])
    if row is None:
        raise NotFoundError(f"no selection of {sae_id!r} in the store; run `safesail select-sae` first")
    return str(row[0])


@dataclass(frozen=True)
class KnownSelection:
    """A selection of an SAE that the store has."""

    selection_id: str
    concept_set: str
    n_concepts: int
    domains: tuple[str, ...]

    def __str__(self) -> str:
        many = len(self.domains) > _DOMAINS_NAMED
        domains = f"{len(self.domains)} domains" if many else ", ".join(self.domains)
        return f"{self.selection_id[:8]} ({self.n_concepts} concepts of {domains})"


_DOMAINS_NAMED = 3
"""More are counted."""


def selections_of(db: Db, sae_id: str) -> list[KnownSelection]:
    """Selections of an SAE, the newest first."""
    known = rows(
        db,
        "SELECT s.selection_id, s.concept_set, count(*) FILTER (c.scope = 'concept'),"
        " coalesce(list(c.scope_id ORDER BY c.scope_id) FILTER (c.scope = 'domain'), [])"
        " FROM selections s LEFT JOIN sae_scores c ON c.selection_id = s.selection_id AND c.measure = ?"
        " WHERE s.sae_id = ? GROUP BY s.selection_id, s.concept_set, s.rowid ORDER BY s.rowid DESC",
        [SECOND, sae_id],
    )
    return [KnownSelection(row[0], row[1], row[2], tuple(row[3])) for row in known]


def ranked_saes(
    db: Db, *, measure: str = RANKING, selection_ids: Sequence[str] | None = None
) -> list[ScoredSae]:
    """SAEs by a figure over all concepts, best first, each by its newest selection; undefined ones last.

    Args:
        db: The open store.
        measure: Name of a figure in `sae_scores`.
        selection_ids: Only these selections; None takes every SAE's newest.
    """
    result = rows(
        db,
        """
        SELECT l.sae_id, l.selection_id, s.hook, s.layer, s.d_sae, s.k, l.l0, l.fvu, c.value, c.low, c.high,
               c.null_value
        FROM (
            SELECT *, rowid AS ordinal FROM selections
            WHERE coalesce(list_contains(?, selection_id), true)
            QUALIFY row_number() OVER (PARTITION BY sae_id ORDER BY rowid DESC) = 1
        ) l
        JOIN saes s USING (sae_id)
        LEFT JOIN sae_scores c
          ON c.selection_id = l.selection_id AND c.scope = 'all' AND c.measure = ?
        LEFT JOIN sae_scores d ON d.selection_id = l.selection_id AND d.scope = 'all' AND d.measure = ?
        ORDER BY c.value DESC NULLS LAST, d.value DESC NULLS LAST, l.sae_id
        """,
        [None if selection_ids is None else list(selection_ids), measure, SECOND],
    )
    return [ScoredSae(*row) for row in result]


def best_sae(db: Db) -> str:
    """The SAE that selections rank first.

    Raises:
        NotFoundError: the store has no selection.
    """
    ranked = ranked_saes(db)
    if not ranked:
        raise NotFoundError("no selection in the store; run `safesail select-sae` first, or name an SAE")
    return ranked[0].sae_id


def candidate_features(
    db: Db,
    sae_id: str,
    *,
    selection_id: str | None = None,
    domains: Sequence[str] | None = None,
    concepts: Sequence[str] | None = None,
    limit: int | None = None,
) -> list[CandidateFeature]:
    """Candidates of an SAE: the union over concepts, the most distinguishing first.

    Args:
        db: The open store.
        sae_id: Key of the SAE.
        selection_id: None takes its newest selection.
        domains: Only concepts of these domains; None takes all but the selection's controls.
        concepts: Only these, whatever their domains.
        limit: At most this many.

    Raises:
        NotFoundError: the SAE has no selection.
    """
    identity = latest_selection(db, sae_id) if selection_id is None else selection_id
    result = rows(
        db,
        """
        SELECT f.feature,
               list(f.concept_id ORDER BY f.frequency - f.swapped DESC, f.concept_id) AS concept_ids,
               arg_max(f.frequency, f.frequency - f.swapped) AS frequency,
               arg_max(f.swapped, f.frequency - f.swapped) AS swapped,
               coalesce(list(f.concept_id ORDER BY f.concept_id)
                        FILTER ((p.auc_pairs + coalesce(p.auc_wide, p.auc_pairs)) / 2 < ?), []) AS loose
        FROM feature_concepts f
        JOIN concepts c USING (concept_id)
        JOIN selections s USING (selection_id)
        LEFT JOIN separations p USING (selection_id, concept_id, feature)
        WHERE f.selection_id = ? AND f.candidate
          AND coalesce(list_contains(?, f.concept_id), list_contains(?, c.domain),
                       NOT list_contains(CAST(s.settings -> '$.controls' AS TEXT[]), c.domain))
        GROUP BY f.feature
        ORDER BY max(f.frequency - f.swapped) DESC, count(*) DESC, f.feature
        LIMIT ?
        """,
        [LOOSE, identity, *(None if names is None else list(names) for names in (concepts, domains)), limit],
    )
    return [CandidateFeature(row[0], tuple(row[1]), row[2], row[3], tuple(row[4])) for row in result]


@dataclass(frozen=True)
class ReadoutFeature:
    """A feature of a concept's readout."""

    concept_id: str
    sae_id: str
    rank: int
    """From 1: the feature that separates best stands first, and is the best single one."""

    feature: int
    lift: float
    """Share of pairs in which it fires on q+ only, minus the share in which it fires on q- only."""

    auc_pairs: float
    """AUC of its largest activation on a text, q+ against q-."""

    auc_wide: float | None
    """The same, q+ against texts of other domains; None: there are none."""

    scale: float
    """Its largest activation on any text of the pairs: a readout averages activations divided by it."""


def readouts(db: Db, selection_id: str) -> list[ReadoutFeature]:
    """The readout of every concept of a selection, controls left out; best first."""
    features = rows(
        db,
        """
        SELECT p.concept_id, p.sae_id, p.readout_rank, p.feature, coalesce(f.frequency - f.swapped, 0), p.auc_pairs,
               p.auc_wide, p.scale
        FROM separations p JOIN concepts c USING (concept_id) JOIN selections s USING (selection_id)
        LEFT JOIN feature_concepts f USING (selection_id, concept_id, feature)
        WHERE p.selection_id = ? AND p.readout_rank IS NOT NULL
          AND NOT list_contains(CAST(s.settings -> '$.controls' AS TEXT[]), c.domain)
        ORDER BY p.concept_id, p.readout_rank
        """,
        [selection_id],
    )
    return [ReadoutFeature(*row) for row in features]


def write_near(db: Db, sae_id: str, pairs: Sequence[tuple[int, int, float]]) -> None:
    """Record pairs of an SAE's features whose decoder directions have this cosine, in place of those recorded."""
    with transaction(db):
        db.execute("DELETE FROM near_features WHERE sae_id = ?", [sae_id])
        features, others, cosines = zip(*pairs, strict=True) if pairs else ((), (), ())
        columns = {"sae_id": [sae_id] * len(pairs), "feature": features, "other": others, "cosine": cosines}
        insert(db, "near_features", columns)


def near_features(db: Db, sae_id: str, cosine: float) -> list[tuple[int, int]]:
    """Pairs of an SAE's candidates with decoder directions at least this close."""
    result = rows(
        db,
        "SELECT feature, other FROM near_features WHERE sae_id = ? AND cosine >= ? ORDER BY ALL",
        [sae_id, cosine],
    )
    return [(int(a), int(b)) for a, b in result]


def scope_scores(
    db: Db, selection_ids: Sequence[str], scope: str, measure: str
) -> list[tuple[str, str, float | None, float | None, float | None, float | None]]:
    """selection_id, concept or domain, value, null, low, high: one figure of several selections."""
    return [
        (str(row[0]), str(row[1]), *row[2:])
        for row in rows(
            db,
            "SELECT selection_id, scope_id, value, null_value, low, high FROM sae_scores"
            " WHERE list_contains(?, selection_id) AND scope = ? AND measure = ? ORDER BY scope_id, selection_id",
            [list(selection_ids), scope, measure],
        )
    ]

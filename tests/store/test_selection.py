import pytest

from safesail.domain.records import Concept, ConceptPair, SaeInfo
from safesail.errors import NotFoundError
from safesail.store.bulk import Column
from safesail.store.concepts import read_concepts, write_concepts
from safesail.store.connection import Db
from safesail.store.registry import register_sae
from safesail.store.selection import (
    ReadoutFeature,
    ScoreRow,
    SelectionPiece,
    SelectionRow,
    best_sae,
    candidate_features,
    finished_selections,
    latest_selection,
    ranked_saes,
    read_scores,
    readouts,
    write_selection,
)
from safesail.store.sql import value


def concept(concept_id: str, *pair_ids: str) -> Concept:
    pairs = tuple(ConceptPair(p, "en", "news", f"pos {p}", f"neg {p}") for p in pair_ids)
    return Concept(concept_id, concept_id.split(".")[0], None, concept_id, "about it", pairs)


def score(
    scope: str, scope_id: str, measure: str, figure: float | None, reason: str | None = None
) -> ScoreRow:
    return ScoreRow(scope, scope_id, measure, figure, None, None, None, None, 4, reason)


def record(
    db: Db,
    selection_id: str,
    sae_id: str,
    figure: float | None,
    separations: dict[str, Column] | None = None,
    **features: Column,
) -> None:
    register_sae(db, SaeInfo(sae_id, "m", "blocks.3.hook_mlp_out", 4, 8, "topk", f"sha-{sae_id}", "here", 2))
    row = SelectionRow(selection_id, sae_id, "set", {"controls": ["ordinary"]}, 2.0, 0.5, 1.0)
    reason = None if figure is not None else "no pairs"
    overall = [score("all", "all", "detection", figure, reason)]
    domain = SelectionPiece([score("domain", "a", "detection", figure, "x")], features, separations or {})
    write_selection(db, row, [SelectionPiece(overall), domain])


def test_concepts_come_back_and_lost_pairs_go(db: Db) -> None:
    write_concepts(db, [concept("a.x", "1", "2"), concept("b.y", "3")])
    write_concepts(db, [concept("a.x", "2", "4")])
    assert read_concepts(db) == (concept("a.x", "2", "4"), concept("b.y", "3"))


def test_writing_concepts_is_whole_or_not_at_all(db: Db) -> None:
    write_concepts(db, [concept("a.x", "1")])
    broken = Concept("a.x", "a", None, None, "d", ())  # pyright: ignore[reportArgumentType]
    with pytest.raises(Exception, match=r"NOT NULL|aborted"):
        write_concepts(db, [broken])
    assert read_concepts(db) == (concept("a.x", "1"),)


def test_ranking_takes_each_saes_newest_selection_and_puts_undefined_last(db: Db) -> None:
    record(db, "s1", "first", 0.9)
    record(db, "s2", "second", 0.5)
    record(db, "s3", "first", 0.3)
    record(db, "s4", "third", None)
    assert [(s.sae_id, s.selection_id, s.value) for s in ranked_saes(db)] == [
        ("second", "s2", 0.5), ("first", "s3", 0.3), ("third", "s4", None),
    ]  # fmt: skip
    assert [s.sae_id for s in ranked_saes(db, selection_ids=["s1", "s2"])] == ["first", "second"]
    assert (best_sae(db), latest_selection(db, "first")) == ("second", "s3")
    assert ranked_saes(db, measure="unheard of")[0].value is None
    assert finished_selections(db, ["s1", "s9"]) == {"s1"}


def test_scores_by_scope(db: Db) -> None:
    record(db, "s1", "one", 0.9)
    assert [r.scope for r in read_scores(db, "s1")] == ["all", "domain"]
    assert [r.value for r in read_scores(db, "s1", scope="domain")] == [0.9]
    with pytest.raises(NotFoundError, match="no selection 's2'"):
        read_scores(db, "s2")


def test_candidates_are_the_union_over_concepts_best_first(db: Db) -> None:
    write_concepts(db, [concept("a.x"), concept("a.y"), concept("b.z"), concept("ordinary.o")])
    record(
        db, "s1", "one", 0.9,
        feature=[5, 5, 2, 7, 9],
        concept_id=["a.x", "a.y", "b.z", "a.x", "ordinary.o"],
        frequency=[0.6, 0.9, 0.8, 0.5, 1.0],
        swapped=[0.0, 0.2, 0.0, 0.5, 0.0],
        n_pairs=[4] * 5,
        candidate=[True, True, True, False, True],
    )  # fmt: skip
    found = candidate_features(db, "one")
    # Net frequencies: feature 2 has 0.8, feature 5 has 0.7 for a.y and 0.6 for a.x; 7 is none, 9 a control's.
    assert [(c.feature, c.concept_ids, c.frequency, c.swapped) for c in found] == [
        (2, ("b.z",), 0.8, 0.0), (5, ("a.y", "a.x"), 0.9, 0.2),
    ]  # fmt: skip
    assert [c.feature for c in candidate_features(db, "one", domains=["a"])] == [5]
    assert [c.feature for c in candidate_features(db, "one", domains=["ordinary"])] == [9]
    assert [c.feature for c in candidate_features(db, "one", limit=1)] == [2]


def test_saes_without_the_ranking_figure_stand_by_the_second_one(db: Db) -> None:
    for sae_id, figure in (("low", 0.1), ("high", 0.4)):
        record(db, f"s-{sae_id}", sae_id, None)
        second = [score("all", "all", "pair_isolation", figure)]
        older = SelectionRow(f"t-{sae_id}", sae_id, "set", {"controls": []}, 2.0, 0.5, 1.0)
        write_selection(db, older, [SelectionPiece(second)])
    record(db, "s-known", "known", 0.01)
    assert [s.sae_id for s in ranked_saes(db)] == ["known", "high", "low"]


def test_readouts_come_best_first_and_candidates_say_what_they_hold_loosely(db: Db) -> None:
    write_concepts(db, [concept("a.x"), concept("a.y"), concept("ordinary.o")])
    record(
        db, "s1", "one", 0.9,
        feature=[5, 5, 7, 9], concept_id=["a.x", "a.y", "a.x", "ordinary.o"], frequency=[0.6, 0.9, 0.5, 1.0],
        swapped=[0.0, 0.2, 0.0, 0.0], n_pairs=[4] * 4, candidate=[True] * 4,
        separations={
            "feature": [5, 5, 7, 8, 9], "concept_id": ["a.x", "a.y", "a.x", "a.x", "ordinary.o"],
            "auc_pairs": [0.8, 0.7, 0.9, 0.6, 1.0], "auc_wide": [0.9, 0.6, 0.9, None, 1.0],
            "readout_rank": [2, None, 1, 3, 1], "scale": [2.0, 2.0, 1.0, 4.0, 1.0],
        },
    )  # fmt: skip
    assert readouts(db, "s1") == [
        ReadoutFeature("a.x", "one", 1, 7, 0.5, 0.9, 0.9, 1.0),
        ReadoutFeature("a.x", "one", 2, 5, 0.6, 0.8, 0.9, 2.0),
        ReadoutFeature("a.x", "one", 3, 8, 0.0, 0.6, None, 4.0),  # stronger on q+, but on neither side alone
    ]
    # Feature 5: (0.7 + 0.6) / 2 = 0.65 for a.y, 0.85 for a.x.
    assert [(c.feature, c.concept_ids, c.loose) for c in candidate_features(db, "one")] == [
        (5, ("a.y", "a.x"), ("a.y",)), (7, ("a.x",), ()),
    ]  # fmt: skip


def test_a_selection_is_written_whole_or_not_at_all(db: Db) -> None:
    register_sae(db, SaeInfo("one", "m", "blocks.3.hook_mlp_out", 4, 8, "topk", "sha-one", "here"))
    twice = [score("all", "all", "pair_isolation", 1.0)] * 2
    with pytest.raises(Exception, match="duplicate key"):
        write_selection(db, SelectionRow("s1", "one", "set", {}, 1.0, None, 1.0), [SelectionPiece(twice)])
    assert value(db, "SELECT count(*) FROM selections") == 0
    assert value(db, "SELECT count(*) FROM sae_scores") == 0

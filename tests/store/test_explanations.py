from dataclasses import replace

import duckdb
import pytest

from safesail.domain.ids import FeatureId
from safesail.domain.records import Explanation, Failed, Score
from safesail.errors import NotFoundError
from safesail.store.bulk import insert
from safesail.store.connection import Db
from safesail.store.explanations import (
    ConfidentExplanation,
    DetailedScore,
    FailedExplanation,
    FailedScore,
    explanation_id,
    pending,
    read_explanation,
    read_scores,
    read_tags,
    record_explanation,
    record_score,
    record_tags,
)
from safesail.store.sql import rows, value

FEATURE = FeatureId("sae", 3)
BOMBS = ConfidentExplanation(FEATURE, "Bombs", ("weapons",), "m @ here", "ab" * 32, 0.75)
FAILED = FailedExplanation(
    FEATURE, "explain", "UnparsableAnswerError", "not JSON: 'x'", "m @ here", "ab" * 32
)
SCORE = DetailedScore(
    feature=FEATURE, method="segment", value=0.5, low=0.4, high=0.6, chance=0.1, n_units=80, n_windows=20,
    reason=None, simulator="m @ here", prompt_hash="cd" * 32, auc=0.8, balanced_accuracy=0.7, tokens=1234,
)  # fmt: skip


def count(db: Db, table: str) -> int:
    return int(value(db, f"SELECT count(*) FROM {table}"))


def test_an_explanation_comes_back_as_it_was(db: Db) -> None:
    assert record_explanation(db, BOMBS) == explanation_id(BOMBS)
    assert read_explanation(db, FEATURE) == BOMBS
    assert read_tags(db, FEATURE) == {"explainer": ("weapons",)}
    assert rows(db, "SELECT origin, error, masked, lang FROM explanations") == [("run", None, False, "en")]


def test_recording_the_same_again_changes_nothing(db: Db) -> None:
    record_explanation(db, BOMBS)
    before = rows(db, "SELECT * FROM explanations")
    record_explanation(db, BOMBS)
    assert rows(db, "SELECT * FROM explanations") == before
    assert count(db, "tags") == 1


@pytest.mark.parametrize(
    "other",
    [
        replace(BOMBS, feature=FeatureId("sae", 4)),
        replace(BOMBS, text="bombs"),
        replace(BOMBS, explainer="n @ here"),
        replace(BOMBS, prompt_hash="-"),
    ],
)
def test_what_makes_an_explanation_another_one(other: Explanation) -> None:
    assert explanation_id(other) != explanation_id(BOMBS)


def test_tags_and_confidence_are_no_part_of_its_identity() -> None:
    assert explanation_id(replace(BOMBS, tags=(), confidence=None)) == explanation_id(BOMBS)


def test_the_newest_explanation_is_read(db: Db) -> None:
    record_explanation(db, BOMBS)
    record_explanation(db, replace(BOMBS, text="Blasts", tags=()))
    assert read_explanation(db, FEATURE).text == "Blasts"
    assert count(db, "explanations") == 2


def test_a_failure_is_a_row_until_the_feature_is_explained(db: Db) -> None:
    record_explanation(db, FAILED)
    record_explanation(db, replace(FAILED, error="RefusedAnswerError", message="declined"))
    assert rows(db, "SELECT text, explainer, error, message FROM explanations") == [
        (None, "m @ here", "RefusedAnswerError", "declined")
    ]
    with pytest.raises(NotFoundError, match="no explanation of sae#3 in this store; run `safesail explain`"):
        read_explanation(db, FEATURE)
    record_explanation(db, BOMBS)
    assert rows(db, "SELECT text, error FROM explanations") == [("Bombs", None)]


def test_a_failure_before_anyone_was_asked_names_nobody(db: Db) -> None:
    record_explanation(db, Failed(FEATURE, "explain", "NoExemplars", "never fires"))
    assert rows(db, "SELECT explainer, prompt_hash FROM explanations") == [("none", None)]


def test_an_explanation_is_stored_with_its_tags_or_not_at_all(db: Db) -> None:
    record_explanation(db, FAILED)
    db.execute("DROP TABLE tags CASCADE")
    with pytest.raises(duckdb.Error):
        record_explanation(db, BOMBS)
    assert rows(db, "SELECT error FROM explanations") == [("UnparsableAnswerError",)]


def test_a_score_comes_back_as_it_was(db: Db) -> None:
    record_explanation(db, BOMBS)
    record_score(db, BOMBS, SCORE)
    (row,) = read_scores(db, "sae")
    assert (row.feature, row.method, row.value, row.low, row.high, row.chance) == (
        FEATURE, "segment", 0.5, 0.4, 0.6, 0.1,
    )  # fmt: skip
    assert (row.auc, row.balanced_accuracy, row.tokens, row.n_units, row.n_windows) == (
        0.8,
        0.7,
        1234,
        80,
        20,
    )
    assert (row.reason, row.error, row.simulator) == (None, None, "m @ here")


def test_the_same_score_again_changes_nothing_and_another_one_replaces_it(db: Db) -> None:
    record_score(db, BOMBS, SCORE)
    before = rows(db, "SELECT * FROM scores")
    record_score(db, BOMBS, SCORE)
    assert rows(db, "SELECT * FROM scores") == before
    record_score(db, BOMBS, replace(SCORE, value=None, reason="true values are constant"))
    (row,) = read_scores(db, "sae")
    assert (row.value, row.reason) == (None, "true values are constant")
    assert value(db, "SELECT ordinal FROM scores") > before[0][-1]


def test_methods_and_simulators_stand_beside_each_other(db: Db) -> None:
    for score in (SCORE, replace(SCORE, method="token"), replace(SCORE, simulator="n @ there")):
        record_score(db, BOMBS, score)
    assert count(db, "scores") == 3
    assert [r.method for r in read_scores(db, "sae", method="token")] == ["token"]
    assert read_scores(db, "another") == []


def test_a_plain_score_leaves_unknown_figures_empty(db: Db) -> None:
    plain = Score(FEATURE, "segment", 0.1, None, None, None, 4, 1, None, "person", "-")
    record_score(db, BOMBS, plain)
    (row,) = read_scores(db, "sae")
    assert (row.auc, row.tokens, row.low) == (None, None, None)


def test_a_failed_score_is_a_row_with_its_error(db: Db) -> None:
    failed = FailedScore(
        FEATURE, "simulate", "RefusedAnswerError", "declined", "segment", "m @ here", "cd" * 32, 15
    )
    record_score(db, BOMBS, failed)
    (row,) = read_scores(db, "sae")
    assert (row.value, row.error, row.reason, row.tokens) == (None, "RefusedAnswerError", "declined", 15)
    record_score(db, BOMBS, Failed(FEATURE, "simulate", "NoWindows", "none"))
    assert {(r.method, r.simulator) for r in read_scores(db, "sae")} == {
        ("segment", "m @ here"),
        ("none", "none"),
    }


def test_a_score_of_another_feature_is_our_own_bug(db: Db) -> None:
    with pytest.raises(AssertionError, match="another feature"):
        record_score(db, replace(BOMBS, feature=FeatureId("sae", 4)), SCORE)


def test_tags_of_several_sources(db: Db) -> None:
    record_tags(db, FEATURE, ["insult"], source="person", severity=2)
    record_tags(db, FEATURE, ["weapons", "cult"], source="concepts")
    record_tags(db, FEATURE, ["insult"], source="person", severity=3)  # the first one stays
    record_tags(db, FEATURE, [], source="nobody")
    assert read_tags(db, FEATURE) == {"concepts": ("cult", "weapons"), "person": ("insult",)}
    assert value(db, "SELECT severity FROM tags WHERE source = 'person'") == 2


def add_candidates(db: Db, frequencies: dict[int, float]) -> None:
    db.execute(
        "INSERT INTO concepts VALUES ('violence.weapons.bombs', 'violence', 'weapons', 'bombs', 'Bombs.')"
    )
    db.execute("INSERT INTO selections VALUES ('sel', 'sae', 'set', '{\"controls\": []}', 1.0, NULL, 1.0)")
    n = len(frequencies)
    insert(
        db,
        "feature_concepts",
        {
            "selection_id": ["sel"] * n, "sae_id": ["sae"] * n, "feature": list(frequencies),
            "concept_id": ["violence.weapons.bombs"] * n, "frequency": list(frequencies.values()),
            "swapped": [0.0] * n, "n_pairs": [10] * n, "candidate": [True] * n,
        },
    )  # fmt: skip


def test_pending_are_candidates_that_lack_an_explanation_or_a_score_best_first(db: Db) -> None:
    add_candidates(db, {1: 0.5, 3: 0.9, 4: 0.7, 5: 0.6, 6: 0.8})
    for index in (3, 4, 6):
        explanation = replace(BOMBS, feature=FeatureId("sae", index))
        record_explanation(db, explanation)
    record_score(db, BOMBS, SCORE)  # 3: done
    four = replace(BOMBS, feature=FeatureId("sae", 4))
    record_score(
        db, four, replace(SCORE, feature=FeatureId("sae", 4), value=None, reason="constant")
    )  # undefined: done
    six = replace(BOMBS, feature=FeatureId("sae", 6))
    failed = FailedScore(
        FeatureId("sae", 6), "simulate", "RefusedAnswerError", "-", "segment", "m @ here", "-", 1
    )
    record_score(db, six, failed)  # failed: not done
    record_explanation(db, replace(FAILED, feature=FeatureId("sae", 5)))

    assert [f.index for f in pending(db, "sae", method="segment")] == [6, 5, 1]
    assert [f.index for f in pending(db, "sae", method="segment", limit=1)] == [6]
    assert [f.index for f in pending(db, "sae", method="token")] == [3, 6, 4, 5, 1]


def test_pending_needs_a_selection(db: Db) -> None:
    with pytest.raises(NotFoundError, match="run `safesail select-sae` first"):
        pending(db, "sae", method="segment")


def test_the_catalog_shows_the_newest_explanation_with_its_score(db: Db) -> None:
    db.execute(
        "INSERT INTO saes VALUES ('sae', 1, 'm', 14, 'blocks.14.hook_mlp_out', 8, 16, 'topk', 2, NULL, 'here')"
    )
    db.execute("INSERT INTO features (sae_id, feature) VALUES ('sae', 3)")
    record_explanation(db, BOMBS)
    record_score(db, BOMBS, SCORE)
    shown = rows(db, 'SELECT explanation, tags, score, score_low, chance_score, score_method FROM "catalog"')
    assert shown == [("Bombs", ["weapons"], 0.5, 0.4, 0.1, "segment")]

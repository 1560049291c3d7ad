from dataclasses import replace

import duckdb
import pytest

from safesail.domain.ids import FeatureId
from safesail.domain.records import Explanation, Failed, Score
from safesail.errors import NotFoundError
from safesail.store.connection import Db
from safesail.store.explanations import (
    ScoreOrigin,
    explanation_id,
    headline_scores,
    read_explanation,
    read_scores,
    read_tags,
    record_explanation,
    record_score,
    record_tags,
)
from safesail.store.sql import rows, value

FEATURE = FeatureId("sae", 3)
BOMBS = Explanation(FEATURE, "Bombs", ("weapons",), "m @ here", "ab" * 32, 0.75)
FAILED = Failed(FEATURE, "UnparsableAnswerError", "not JSON: 'x'", "m @ here", "ab" * 32)
SCORE = Score(
    FEATURE, "segment", "m @ here", 0.5, low=0.4, high=0.6, chance=0.1, auc=0.8, balanced_accuracy=0.7, n_units=80,
    n_windows=20, tokens=1234, prompt_hash="cd" * 32,
)  # fmt: skip
RUN = ScoreOrigin("run", {"windows": 20})


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
    record_explanation(db, Failed(FEATURE, "NoExemplars", "never fires"))
    assert rows(db, "SELECT explainer, prompt_hash FROM explanations") == [("none", None)]


def test_an_explanation_is_stored_with_its_tags_or_not_at_all(db: Db) -> None:
    record_explanation(db, FAILED)
    db.execute("DROP TABLE tags CASCADE")
    with pytest.raises(duckdb.Error):
        record_explanation(db, BOMBS)
    assert rows(db, "SELECT error FROM explanations") == [("UnparsableAnswerError",)]


def test_a_score_comes_back_as_it_was(db: Db) -> None:
    record_explanation(db, BOMBS)
    record_score(db, BOMBS, SCORE, RUN)
    assert read_scores(db, "sae") == [SCORE]
    assert rows(db, "SELECT run_id, settings, settings_hash FROM scores") == [
        ("run", '{"windows": 20}', RUN.settings_hash)
    ]


def test_the_same_score_again_changes_nothing_and_another_one_replaces_it(db: Db) -> None:
    record_score(db, BOMBS, SCORE, RUN)
    before = rows(db, "SELECT * FROM scores")
    record_score(db, BOMBS, SCORE, ScoreOrigin("later", RUN.settings))
    assert rows(db, "SELECT * FROM scores") == before
    undefined = replace(SCORE, value=None, reason="true values are constant")
    record_score(db, BOMBS, undefined, RUN)
    assert read_scores(db, "sae") == [undefined]


def test_a_chance_line_is_not_lost_to_the_same_score_without_one(db: Db) -> None:
    record_score(db, BOMBS, SCORE, RUN)
    record_score(db, BOMBS, replace(SCORE, chance=None), ScoreOrigin("later", RUN.settings))
    assert read_scores(db, "sae") == [SCORE]


def test_scores_made_differently_stand_beside_each_other(db: Db) -> None:
    for score in (SCORE, replace(SCORE, method="token"), replace(SCORE, simulator="n @ there")):
        record_score(db, BOMBS, score, RUN)
    other_windows = replace(SCORE, value=0.9, chance=None)
    record_score(db, BOMBS, other_windows, ScoreOrigin("later", {"windows": 10}))
    assert count(db, "scores") == 4
    assert read_scores(db, "sae", method="segment", simulator="m @ here") == [SCORE, other_windows]
    assert [r.method for r in read_scores(db, "sae", method="token")] == ["token"]
    assert read_scores(db, "another") == []


def test_a_failed_score_is_a_row_with_its_error(db: Db) -> None:
    failed = Score(
        FEATURE, "segment", "m @ here", None, reason="declined", error="RefusedAnswerError", tokens=15,
        prompt_hash="cd" * 32,
    )  # fmt: skip
    record_score(db, BOMBS, failed, RUN)
    assert read_scores(db, "sae") == [failed]


def test_a_score_of_another_feature_is_our_own_bug(db: Db) -> None:
    with pytest.raises(AssertionError, match="another feature"):
        record_score(db, replace(BOMBS, feature=FeatureId("sae", 4)), SCORE, RUN)


def test_tags_of_several_sources(db: Db) -> None:
    record_tags(db, FEATURE, ["insult"], source="person", severity=2)
    record_tags(db, FEATURE, ["weapons", "cult"], source="concepts")
    record_tags(db, FEATURE, ["insult"], source="person", severity=3)  # the first one stays
    record_tags(db, FEATURE, [], source="nobody")
    assert read_tags(db, FEATURE) == {"concepts": ("cult", "weapons"), "person": ("insult",)}
    assert value(db, "SELECT severity FROM tags WHERE source = 'person'") == 2


@pytest.fixture
def catalog(db: Db) -> Db:
    """A store with an SAE and feature 3 and 4 of it, explained."""
    db.execute(
        "INSERT INTO saes VALUES ('sae', 1, 'm', 14, 'blocks.14.hook_mlp_out', 8, 16, 'topk', 2, NULL, 'here')"
    )
    db.execute("INSERT INTO features (sae_id, feature) VALUES ('sae', 3), ('sae', 4)")
    for explanation in (BOMBS, replace(BOMBS, feature=FeatureId("sae", 4))):
        record_explanation(db, explanation)
    return db


SHOWN = (
    'SELECT explanation, score, chance_score, score_method, score_simulator FROM "catalog" WHERE "index" = 3'
)


def test_the_catalog_shows_an_explanation_with_its_score_method_and_simulator(catalog: Db) -> None:
    record_score(catalog, BOMBS, SCORE, RUN)
    assert rows(catalog, SHOWN) == [("Bombs", 0.5, 0.1, "segment", "m @ here")]


def test_a_feature_with_a_scored_explanation_never_shows_as_unscored(catalog: Db) -> None:
    record_score(catalog, BOMBS, SCORE, RUN)
    newer = replace(BOMBS, text="Blasts")
    record_explanation(catalog, newer)
    assert rows(catalog, SHOWN) == [("Bombs", 0.5, 0.1, "segment", "m @ here")]
    record_score(catalog, newer, replace(SCORE, value=0.7), RUN)
    assert rows(catalog, SHOWN) == [("Blasts", 0.7, 0.1, "segment", "m @ here")]


@pytest.mark.parametrize(
    ("later", "settings"),
    [
        (replace(SCORE, value=0.9, chance=None), {"windows": 10}),
        (replace(SCORE, value=0.9, method="token"), RUN.settings),
        (replace(SCORE, value=0.9, simulator="n @ there"), RUN.settings),
    ],
)
def test_what_ran_last_is_not_the_headline(catalog: Db, later: Score, settings: dict[str, int]) -> None:
    record_score(catalog, BOMBS, SCORE, RUN)
    before = rows(catalog, SHOWN)
    record_score(catalog, BOMBS, later, ScoreOrigin("later", settings))
    assert rows(catalog, SHOWN) == before
    assert headline_scores(catalog, "sae") == [SCORE]


def test_the_headline_is_the_way_with_most_chance_lines_and_all_of_one_way(catalog: Db) -> None:
    four = replace(BOMBS, feature=FeatureId("sae", 4))
    other = replace(SCORE, feature=four.feature)
    record_score(catalog, four, other, RUN)
    better = ScoreOrigin("later", {"windows": 40})
    record_score(catalog, four, replace(other, value=0.8), better)
    assert [s.value for s in headline_scores(catalog, "sae")] == [0.5]  # a tie: the first stays
    record_score(catalog, BOMBS, replace(SCORE, value=0.3), better)
    assert [s.value for s in headline_scores(catalog, "sae")] == [0.3, 0.8]


def test_newer_explanations_scored_as_well_are_the_headline(catalog: Db) -> None:
    record_score(catalog, BOMBS, SCORE, RUN)
    newer = replace(BOMBS, text="Blasts", explainer="n @ there")
    record_explanation(catalog, newer)
    record_score(catalog, newer, replace(SCORE, simulator="n @ there", value=0.6), RUN)
    assert rows(catalog, SHOWN) == [("Blasts", 0.6, 0.1, "segment", "n @ there")]

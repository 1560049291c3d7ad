"""What an audit says of explanations, worked out by hand."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from safesail.catalog.audit import audit, contradictions, judge, plot_audit
from safesail.cli.main import cli
from safesail.domain.ids import FeatureId
from safesail.domain.records import Score
from safesail.errors import NotFoundError
from safesail.store.audit import AuditedScore, TextCounts
from safesail.store.connection import open_reader, open_writer
from safesail.store.explanations import (
    Authors,
    ScoreOrigin,
    explained_features,
    read_explanation,
    record_score,
)
from tests.catalog.toy import SAE


def scored(by: str, feature: int, value: float | None, width: float = 0.1, **more: object) -> AuditedScore:
    cells: dict[str, object] = {
        "chance": 0.05, "lookup": None, "gain_low": None, "gain_high": None, "error": None, "tokens": 100}  # fmt: skip
    low, high = (None, None) if value is None else (value - width, value + width)
    return AuditedScore("s", "o", by, feature, f"{by}{feature}", value, low, high, **{**cells, **more})  # type: ignore[arg-type]


COUNTS = TextCounts("s", "o", "a", 6, 6, 4, 1, 1, 0, 2, shared_words=1, compared=3)


def test_figures_of_an_author_by_hand() -> None:
    scores = [
        scored("a", 0, 0.6, lookup=0.3, gain_low=0.1, gain_high=0.5),  # above chance and look-up
        scored("a", 1, 0.1, lookup=0.4, gain_low=-0.5, gain_high=-0.1),  # [0, .2] holds the chance .05
        scored("a", 2, -0.2, lookup=0.0, gain_low=-0.4, gain_high=0.1),  # [-.3, -.1] lies below it
        scored("a", 3, None),
        scored("a", 4, None, error="UnparsableAnswerError", tokens=None),
        scored("b", 0, 0.2),  # [.1, .3] does not meet [.5, .7]
        scored("b", 1, 0.15),
    ]
    found = judge(COUNTS, scores)
    assert (found.scored, found.undefined, found.unanswered) == (3, 1, 1)
    assert found.mean == pytest.approx(0.5 / 3) and found.chance == pytest.approx(0.05)
    assert found.lookup == pytest.approx(0.7 / 3)
    assert (found.beat_chance, found.below_chance) == (1, 1)
    assert (found.beat_lookup, found.below_lookup, found.against_lookup) == (1, 1, 3)
    assert (found.contradicted, found.tokens, found.unlike) == (1, 400, 2)
    assert found.low is not None and found.mean is not None and found.high is not None
    assert -0.201 < found.low < found.mean < found.high < 0.601
    assert contradictions(scores) == {"a0", "b0"}


def test_nothing_is_made_up_where_nothing_is_scored() -> None:
    found = judge(COUNTS, [])
    assert (found.mean, found.low, found.chance, found.lookup, found.tokens) == (None,) * 5
    assert judge(COUNTS, [scored("a", 0, 0.5)]).low is None, "one score has no interval"


@pytest.fixture
def labelled(store: Path) -> Path:
    """The toy store with a catalog of another author: one text for two features, one empty, one masked."""
    with open_writer(store) as db:
        for feature, text, error, masked in (
            (0, "Smuggling of people", None, False), (1, "Things in general", None, False),
            (2, "things  in general", None, False), (3, None, None, True), (4, None, "EmptyExplanation", False),
        ):  # fmt: skip
            db.execute(
                "INSERT INTO explanations (explanation_id, sae_id, feature, text, masked, explainer, origin, error)"
                " VALUES (?, ?, ?, ?, ?, 'them', 'theirs', ?)", [f"t{feature}", SAE, feature, text, masked, error],
            )  # fmt: skip
    return store


def test_texts_are_counted_by_author(labelled: Path) -> None:
    with open_reader(labelled) as db:
        report = audit(db)
    ours, theirs = sorted(report.authors, key=lambda author: author.origin)
    assert (ours.explainer, ours.explanations, ours.readable, ours.failed, ours.mean) == (
        "writer", 5, 4, 1, pytest.approx(0.4))  # fmt: skip
    assert (theirs.explanations, theirs.readable, theirs.empty, theirs.masked, theirs.failed) == (
        5,
        3,
        1,
        1,
        0,
    )
    assert (theirs.duplicated, ours.duplicated) == (2, 0), "the same words, whatever their case and blanks"
    # feature 0 shares `smuggling` and `people`; 1 and 2 share no word with what the other says
    assert (theirs.compared, theirs.unlike, theirs.mean) == (3, 2, None)
    assert report.methods == {SAE: "segment, simulator guesser"}


def test_imported_explanations_are_scored_under_their_own_ids(labelled: Path) -> None:
    theirs = Authors("theirs", "them")
    with open_writer(labelled) as db:
        assert explained_features(db, SAE) == [0, 1, 2, 3] and explained_features(db, SAE, theirs) == [
            0,
            1,
            2,
        ]
        explanation = read_explanation(db, FeatureId(SAE, 1), theirs)
        score = Score(explanation.feature, "segment", "guesser", 0.9, 0.8, 1.0, 0.05, tokens=7)
        record_score(db, explanation, score, ScoreOrigin("r", {"a": 1}))
        assert db.execute("SELECT explanation_id, value FROM scores WHERE value = 0.9").fetchall() == [
            ("t1", 0.9)
        ]


def test_on_the_command_line_and_drawn(labelled: Path, tmp_path: Path) -> None:
    shown = CliRunner().invoke(
        cli, ["catalog", "audit", "--store", str(labelled), "--plot", str(tmp_path / "a.svg")]
    )
    assert shown.exit_code == 0, shown.output
    assert "toy-l2: scored by segment, simulator guesser" in shown.stdout
    assert "theirs" in shown.stdout and "chance" in (tmp_path / "a.svg").read_text()
    with open_writer(labelled) as db:
        db.execute("DELETE FROM scores")
    with open_reader(labelled) as db, pytest.raises(NotFoundError, match="nothing is scored"):
        plot_audit(audit(db), tmp_path / "b.svg")
    with open_reader(labelled) as db, pytest.raises(NotFoundError, match="no explanation of nobody"):
        audit(db, "nobody")

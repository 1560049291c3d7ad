"""The baseline of a look-up: a table token -> mean activation, fitted on train windows, on the units of the score."""

from pathlib import Path
from typing import Literal

import pytest

from safesail.autointerp.config import Method, ScoringConfig
from safesail.autointerp.score import with_lookup
from safesail.autointerp.units import Simulated, looked_up, units_of
from safesail.catalog.show import render_feature, show_feature
from safesail.catalog.stats import stats
from safesail.domain.ids import FeatureId
from safesail.domain.records import Score
from safesail.store.connection import Db, open_reader
from safesail.store.exemplars import active_windows, fetch_windows, find_feature
from safesail.store.explanations import headline_scores
from safesail.store.sql import rows, value
from safesail.store.token_table import TokenTables
from tests.made_windows import FEATURE, exemplar
from tests.pipeline.conftest import Made

WINDOWS = [
    exemplar("the bomb went off near the old market square", {"bomb": 4.0}),
    exemplar("the bomb was never found by anybody at all", {}),
    exemplar("a guard fired and fired again at the bomb", {"fired": 2.0}),
    exemplar("there was soup and bread for all of the guests"),
]
SCORE = Score(FEATURE, "token", "m", 0.5)


def test_a_unit_has_the_largest_mean_activation_of_its_tokens() -> None:
    (units,) = units_of(WINDOWS[:1], ScoringConfig(method="segment", segment_tokens=3))
    assert units.tokens == (
        ("the", " bomb", " went"),
        (" off", " near", " the"),
        (" old", " market", " square"),
    )
    assert looked_up(units, {" bomb": 1.5, " the": 0.25, "the": 2.0}) == (2.0, 0.25, 0.0)


@pytest.mark.parametrize(("method", "expected"), [("detection", 3.0), ("fuzzing", 3.0)])
def test_a_whole_window_has_that_of_its_tokens_or_of_the_marked_ones(method: Method, expected: float) -> None:
    units = units_of(WINDOWS[:1], ScoringConfig(method=method))[0]
    table = {" bomb": 3.0} | ({" square": 9.0} if method == "fuzzing" else {})
    assert looked_up(units, table) == (expected,)  # " square" is not marked


def simulated(predicted: list[dict[str, float]]) -> list[Simulated]:
    units = units_of(WINDOWS, ScoringConfig(method="token"))
    return [
        Simulated(u, tuple(p.get(text.strip(), 0.0) for text in u.texts))
        for u, p in zip(units, predicted, strict=True)
    ]


KNOWS: list[dict[str, float]] = [{"bomb": 8}, {}, {"fired": 4}, {}]
BLIND: list[dict[str, float]] = [{"square": 8}, {"all": 3}, {"again": 9}, {"soup": 9}]


@pytest.mark.parametrize(
    ("predicted", "verdict"), [(KNOWS, "yes"), (BLIND, "no"), ([{"bomb": 4, "fired": 3}] * 4, "not shown")]
)
def test_the_gain_is_paired_over_windows(
    predicted: list[dict[str, float]], verdict: Literal["yes", "no", "not shown"]
) -> None:
    table = {" bomb": 4 / 3, " fired": 1.0}
    windows = simulated(predicted) * 6  # more windows of the same kinds: the interval is narrow enough
    found = with_lookup(SCORE, windows, table, ScoringConfig(method="token"))
    assert found.lookup is not None
    assert 0.5 < found.lookup < 1.0
    assert found.beyond_lookup == verdict


def test_a_look_up_that_is_right_everywhere_scores_one_and_nothing_is_gained() -> None:
    table = {" fired": 2.0}
    windows = simulated([{}, {}, {"fired": 4}, {}])[2:] * 8
    found = with_lookup(SCORE, windows, table, ScoringConfig(method="token"))
    assert found.lookup == pytest.approx(1.0)
    assert (found.gain_low, found.gain_high) == (pytest.approx(0.0), pytest.approx(0.0))
    assert found.beyond_lookup == "not shown"


def test_without_a_score_or_a_table_that_says_something_there_is_no_verdict() -> None:
    windows, config = simulated(KNOWS), ScoringConfig(method="token")
    undefined = with_lookup(Score(FEATURE, "token", "m", None), windows, {" bomb": 1.0}, config)
    assert (undefined.lookup is not None, undefined.gain_low, undefined.beyond_lookup) == (
        True,
        None,
        "not shown",
    )
    assert with_lookup(SCORE, windows, {}, config).beyond_lookup is None


def test_the_table_of_a_store_is_the_mean_over_all_train_tokens(made: Made) -> None:
    with open_reader(made.out / "safesail.duckdb") as db:
        feature = headline_scores(db, made.summary.sae_id)[0].feature
        assert dict(TokenTables(db).table(find_feature(db, feature))) == pytest.approx(
            slow_table(db, feature)
        )


def slow_table(db: Db, feature: FeatureId) -> dict[str, float]:
    """Every train window read, silent ones included."""
    harvested = find_feature(db, feature)
    ids = [r[0] for r in rows(db, "SELECT window_id FROM windows WHERE split = 'train'")]
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for window, activations in fetch_windows(db, harvested, ids).values():
        for token, activation in zip(window.tokens, activations, strict=True):
            counts[token] = counts.get(token, 0) + 1
            sums[token] = sums.get(token, 0.0) + activation
    assert active_windows(db, harvested, "train").key
    return {token: total / counts[token] for token, total in sums.items() if total > 0}


def test_every_score_of_a_run_has_its_look_up_and_people_see_it(made: Made) -> None:
    with open_reader(made.out / "safesail.duckdb") as db:
        score = next(s for s in headline_scores(db, made.summary.sae_id) if s.lookup is not None)
        text = render_feature(show_feature(db, score.feature)).plain
        assert f"look-up {score.lookup:.3f}; knows more than a look-up: {score.beyond_lookup}" in text
        shown = rows(
            db, 'SELECT lookup_score, beyond_lookup FROM catalog WHERE "index" = ?', [score.feature.index]
        )
        assert shown == [(score.lookup, score.beyond_lookup)]
        figures = stats(db).saes[made.summary.sae_id]
        assert figures.lookup == pytest.approx(value(db, "SELECT avg(lookup) FROM scores"))
        assert figures.beyond_lookup == value(db, "SELECT count(*) FROM scores WHERE gain_low > 0")
    card = (made.out / "release" / "README.md").read_text(encoding="utf-8")
    assert (
        f"- Look-up: a table token -> mean activation, without any explanation, scores {figures.lookup:.3f}"
        in card
    )


def test_a_release_gives_the_look_ups_back(made: Made) -> None:
    from safesail.catalog.source import open_source

    def of(path: Path) -> list[object]:
        with open_source(path) as db:
            return [*rows(db, "SELECT feature, lookup, gain_low, gain_high FROM scores ORDER BY 1")]

    assert of(made.out / "release") == of(made.out / "safesail.duckdb") != []

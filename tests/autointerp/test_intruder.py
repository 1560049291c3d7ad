"""Intruder detection on features that are planted, and on ones that mean nothing."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from safesail.autointerp.clients import ChatSettings
from safesail.autointerp.config import AutointerpConfig, IntruderConfig
from safesail.autointerp.intruder import IntruderTest, TrialTally, intruder_origin
from safesail.autointerp.loop import Plan
from safesail.autointerp.report import RunReport
from safesail.autointerp.run import run_plan
from safesail.cli.main import cli
from safesail.domain.ids import FeatureId
from safesail.errors import BudgetExceededError, ConfigError
from safesail.llm.budget import parse_budget
from safesail.llm.lexical import LexicalModel
from safesail.llm.metered import MeteredClient
from safesail.metrics.correlation import share_interval
from safesail.store.calls import CallTable
from safesail.store.connection import Db, open_writer
from safesail.store.intruders import read_intruders
from safesail.store.registry import start_run
from safesail.store.sql import rows, value
from tests.made_windows import ScriptedModel
from tests.pool_runs import N_FEATURES, SAE, make_store

FEATURES = [FeatureId(SAE, j) for j in range(N_FEATURES)]
CONFIG = AutointerpConfig.model_validate(
    {"scoring": {"draws": 50, "pool": {"features": 5, "max_rounds": 2}}, "explain": {"tags": False},
     "intruder": {"trials_per_call": 5}}
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which half of the features, the odd ones, fire at random."""
    path = tmp_path_factory.mktemp("made") / "store.duckdb"
    make_store(path)
    with open_writer(path) as db:
        db.execute(
            "UPDATE activations_f32 SET sort_key = sort_key - sort_key % 24 + hash(sort_key) % 24"
            " WHERE feature % 2 = 1"
        )
    return path


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made, tmp_path / "store.duckdb"))


def detector(db: Db, model: LexicalModel | ScriptedModel, budget: str = "unlimited") -> IntruderTest:
    run_id = start_run(db, "score", {})
    client = MeteredClient(model, CallTable(db, run_id), parse_budget(budget))
    return IntruderTest(db, client, CONFIG, SAE, intruder_origin(db, run_id, SAE, CONFIG))


def explain(db: Db, budget: str = "unlimited", **config: object) -> RunReport:
    settings = ChatSettings("lexical", "lexical", parse_budget(budget))
    asked = AutointerpConfig.model_validate(CONFIG.model_dump() | config)
    return run_plan(db, Plan(SAE, FEATURES), settings, asked, quiet=True)


def test_what_means_something_is_told_from_what_does_not(store: Path) -> None:
    with open_writer(store) as db:
        of = detector(db, LexicalModel())
        asyncio.run(of.test(FEATURES, decide=False))
        scores = of.scores(FEATURES)
        assert read_intruders(db, SAE) == scores
        for score in scores:
            assert score.value is not None and score.low is not None
            assert (score.n_trials, score.chance) == (6, 0.2)
            if score.feature.index % 2 == 0:
                assert score.value >= 5 / 6 and score.low > score.chance
        noise = [s.value or 0.0 for s in scores if s.feature.index % 2]
        assert sum(noise) / len(noise) < 0.5
        # A trial of five features a call, six of each; nothing of it stands among the scores of explanations.
        assert value(db, "SELECT count(*) FROM llm_calls") == 12
        assert value(db, "SELECT count(*) FROM scores") == 0
        billed = value(db, "SELECT sum(input_tokens + output_tokens) FROM llm_calls")
        assert sum(s.tokens for s in scores) == pytest.approx(billed, abs=N_FEATURES)
        again = detector(db, LexicalModel())
        asyncio.run(again.test(FEATURES, decide=False))
        assert again.scores(FEATURES) == scores
        assert value(db, "SELECT count(*) FROM llm_calls") == 12


def test_the_place_of_the_intruder_tells_nothing(store: Path) -> None:
    with open_writer(store) as db:
        of = detector(db, LexicalModel())
        asyncio.run(of.test(FEATURES, decide=False))
        places = [trial.intruder for tested in of.tested.values() for trial in tested.trials]
    assert set(places) == {0, 1, 2, 3, 4}
    assert max(map(places.count, places)) < len(places) / 2


def test_an_answer_of_no_use_loses_its_trials_only(store: Path) -> None:
    good = json.dumps({str(n): "A" for n in range(1, 6)})
    with open_writer(store) as db:
        of = detector(db, ScriptedModel(["no", *[good] * 5]))
        asyncio.run(of.test(FEATURES[:5], decide=False))
        assert [s.n_trials for s in of.scores(FEATURES[:5])] == [5] * 5
        assert [s.tokens for s in of.scores(FEATURES[:5])] == [18] * 5  # 6 x 15 tokens, shared by five


def test_the_end_of_the_budget_keeps_what_was_answered(store: Path) -> None:
    with open_writer(store) as db:
        of = detector(db, LexicalModel(), "3 calls")
        asyncio.run(of.test(FEATURES, decide=False))
        assert of.stopped_by is not None
        assert value(db, "SELECT count(*) FROM llm_calls") == 3
        # The first block's features come first; the others were not reached, and have no row.
        assert {s.feature: s.n_trials for s in of.scores(FEATURES)} == dict.fromkeys(FEATURES[:5], 3)


def test_the_sequential_test_by_hand() -> None:
    config = (
        IntruderConfig()
    )  # found: ln(.6/.2) = 1.099; missed: ln(.4/.8) = -0.693; bounds at +-ln(9) = 2.197
    verdicts = {
        (n, k): TrialTally((), n, k).verdict(config)
        for n, k in ((1, 1), (2, 2), (3, 0), (4, 0), (6, 3), (5, 1))
    }
    assert verdicts == {(1, 1): None, (2, 2): True, (3, 0): None, (4, 0): False, (6, 3): None, (5, 1): None}


def test_where_it_goes_first_the_budget_goes_to_what_passes(store: Path) -> None:
    with open_writer(store) as db:
        report = explain(db, first="intruder")
        assert {f.index % 2 for f in report.left_out} == {1}
        assert {f.index for f in report.scored} >= {0, 2, 4, 6, 8}
        assert not {*report.left_out} & {*report.explained}
        assert report.left == 0
        assert "failed intruder detection" in report.as_text()
        again = explain(db, first="intruder")
        assert (again.tokens, again.left_out, again.scored) == (0, report.left_out, report.scored)


def test_where_it_goes_first_a_small_budget_still_finishes_features(store: Path) -> None:
    with open_writer(store) as db:
        report = explain(db, "6000", first="intruder")
        assert report.tokens <= 6000
        assert report.scored
        assert rows(db, "SELECT cache_key FROM llm_calls GROUP BY 1 HAVING count(*) > 1") == []


def test_it_goes_first_with_pooled_scoring_only(store: Path) -> None:
    with open_writer(store) as db, pytest.raises(ConfigError, match="pooled scoring only"):
        explain(db, first="intruder", scoring={"method": "segment"})


def test_expecting_no_more_than_chance_is_refused() -> None:
    with pytest.raises(ValueError, match="not above chance"):
        IntruderConfig(expected=0.2)


def test_the_interval_of_a_share() -> None:
    low, high = share_interval(
        5, 10
    )  # Wilson: centre .5, half-width 1.96 / 1.3841 * sqrt(.025 + .0096036) ...
    assert (round(low, 4), round(high, 4)) == (0.2366, 0.7634)
    assert share_interval(0, 6)[0] == 0.0
    assert 0 < share_interval(0, 6)[1] < 0.5


def test_the_command_says_and_shows_what_it_found(store: Path) -> None:
    named = [part for j in range(4) for part in ("--feature", f"{SAE}#{j}")]
    asked = ["score", "--store", str(store), "--scoring", "intruder", "--budget", "50k", "--quiet", *named]
    shown = CliRunner().invoke(cli, [*asked, "--json"])
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    assert [s["feature"]["index"] for s in found["scores"]] == [0, 1, 2, 3]
    assert found["tokens"] > 0
    assert "0 new tokens" in CliRunner().invoke(cli, asked).stdout
    of = CliRunner().invoke(cli, ["catalog", "show", f"{SAE}#0", "--store", str(store)]).stdout
    assert "intruder detection by lexical @ builtin-2: 1.000" in of
    none = CliRunner().invoke(
        cli, [*asked[:6], "10", *asked[7:], "--simulator", "lexical", "--feature", f"{SAE}#9"]
    )
    assert isinstance(none.exception, BudgetExceededError)

"""Scoring both ways: what it finds of models that bear several explanations, and of those that do not."""

import asyncio
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from safesail.autointerp.calibrate import Calibration, Calibrator
from safesail.autointerp.config import AutointerpConfig
from safesail.autointerp.pools import PoolWindow, Round
from safesail.autointerp.positions import Figure, Positions
from safesail.cli.main import cli
from safesail.domain.ids import FeatureId
from safesail.domain.records import Explanation
from safesail.llm.budget import parse_budget
from safesail.llm.builtin_prompts import billed, read_prompt, write_pooled
from safesail.llm.lexical import LexicalModel
from safesail.llm.metered import MeteredClient
from safesail.llm.types import LLMAnswer, LLMRequest
from safesail.store.calls import CallTable
from safesail.store.connection import open_writer
from safesail.store.explanations import record_explanation
from safesail.store.registry import start_run
from safesail.store.sql import rows
from tests.pool_runs import N_FEATURES, SAE, WORDS, make_store

CONFIG = AutointerpConfig.model_validate({"scoring": {"draws": 50, "pool": {"features": 6, "max_rounds": 3}}})
RIGHT = 6
"""So many features have the right explanation, the others a wrong one."""


def explained(number: int) -> Explanation:
    word = WORDS[number] if number < RIGHT else f"zebra{number}"
    return Explanation(FeatureId(SAE, number), f"Fires on “{word}” (7).", (), "a person", "-")


EXPLANATIONS = [explained(number) for number in range(N_FEATURES)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "store.duckdb"
    make_store(path)
    with open_writer(path) as db:
        for explanation in EXPLANATIONS:
            record_explanation(db, explanation)
    return path


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made, tmp_path / "store.duckdb"))


class Swayed(LexicalModel):
    """Answers nothing about anything where most of the explanations in a prompt are wrong."""

    async def complete(self, request: LLMRequest) -> LLMAnswer:
        asked = read_prompt(request.prompt)
        if sum("zebra" in text for text in asked.explanations) >= 3:
            named = [{0: 1} for _ in asked.explanations]
            return billed(write_pooled(asked, named), request)
        return await super().complete(request)


def calibrated(store: Path, model: LexicalModel, budget: str = "unlimited") -> Calibration:
    with open_writer(store) as db:
        run_id = start_run(db, "calibrate", {})
        client = MeteredClient(model, CallTable(db, run_id), parse_budget(budget))
        of = Calibrator(db, client, CONFIG, "segment", SAE, run_id)
        return asyncio.run(of.run(EXPLANATIONS, quiet=True))


def paid_twice(store: Path) -> int:
    with open_writer(store) as db:
        return len(rows(db, "SELECT cache_key FROM llm_calls GROUP BY 1 HAVING count(*) > 1"))


def test_a_model_that_judges_each_by_itself_agrees_and_pools(store: Path) -> None:
    found = calibrated(store, LexicalModel())
    assert found.agreement.value is not None and found.agreement.value > 0.9
    assert found.interference.value == pytest.approx(0.0, abs=1e-12)
    assert (found.pooled.asked, found.alone.asked, found.lost) == (N_FEATURES, N_FEATURES, 0.0)
    assert found.advice == "pooled-g6"
    again = calibrated(store, LexicalModel())
    assert again.tokens == 0
    assert again.agreement == found.agreement
    assert again.text_order == found.text_order


def test_a_model_that_weak_neighbours_confuse_is_found_out(store: Path) -> None:
    found = calibrated(store, Swayed())
    assert found.interference.low is not None and found.interference.low > 0.2
    assert found.advice == "segment"
    assert "neighbours" in found.why


def test_a_budget_that_ends_early_is_kept_to_and_what_it_bought_is_not_paid_again(store: Path) -> None:
    whole = calibrated(store, LexicalModel(), "100k").tokens
    with open_writer(store) as db:
        for table in ("llm_calls", "scores", "pools"):
            db.execute(f"DELETE FROM {table}")
    budget = whole // 2
    half = calibrated(store, LexicalModel(), str(budget))
    assert 0 < half.tokens <= budget
    assert half.stopped_by is not None
    rest = calibrated(store, LexicalModel(), "100k")
    assert rest.stopped_by is None
    assert half.tokens + rest.tokens == pytest.approx(whole, rel=0.15)  # smaller last groups ask more
    assert paid_twice(store) == 0


def test_too_few_features_decide_nothing(store: Path) -> None:
    found = calibrated(store, LexicalModel(), "3000")
    assert found.advice == "undecided"
    assert found.stopped_by is not None


def test_the_command_prints_what_it_found(store: Path) -> None:
    asked = ["score", "--store", str(store), "--sae", SAE, "--calibrate", "4", "--budget", "100k", "--quiet"]
    shown = CliRunner().invoke(cli, [*asked, "--json"])
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    assert (found["asked"], found["alone"]["method"]) == (4, "segment")
    assert found["tokens"] > 0
    text = CliRunner().invoke(cli, asked).stdout
    assert "0 new tokens" in text
    assert "advice: " in text
    wrong = CliRunner().invoke(cli, [*asked, "--scoring", "fuzzing"])
    assert "segment or token" in str(wrong.exception)


def judged(right: Sequence[bool]) -> Round:
    """A round of as many features, each with an active window; ratings are right where said, else the wrong way."""
    features = [FeatureId("sae", i) for i in range(len(right))]
    windows = [
        PoolWindow(f, (f"d{f.index}", 0), ("a", " b"), {g: (0.0, float(g == f)) for g in features})
        for f in features
    ]
    ratings: dict[FeatureId, Sequence[tuple[float, ...]]] = {
        f: [(5.0 if (w.owner == f) == good else 0.0,) for w in windows]
        for f, good in zip(features, right, strict=True)
    }
    return Round(windows, ratings)


def test_what_stands_early_is_told_from_what_stands_late() -> None:
    positions = Positions(CONFIG.scoring)
    answer = judged([True] * 8)
    turned = dict(list(judged([True] * 4 + [False] * 4).ratings.items())[::-1])
    positions.add(answer)
    positions.add(Round(answer.windows, turned))
    # Features 0 to 3 stand early and are right, then late and right; 4 to 7 late and right, then early and wrong:
    # four differences of 1 - 1, and four of -1 - 1.
    assert positions.explanations.value == pytest.approx(-1.0)
    assert positions.explanations.n == 8


def test_one_feature_has_no_figure() -> None:
    assert Figure.mean([0.5]) == Figure(None, None, None, 1)

"""Explaining and scoring features together on a store of planted features: budget, second runs, lost rounds, order."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from safesail.autointerp.clients import ChatPair, ChatSettings
from safesail.autointerp.config import AutointerpConfig
from safesail.autointerp.forecast import forecast
from safesail.autointerp.loop import Plan
from safesail.autointerp.origin import score_origin
from safesail.autointerp.pooled import make_walk
from safesail.autointerp.report import RunReport
from safesail.autointerp.run import run_plan
from safesail.domain.ids import FeatureId
from safesail.errors import CacheMissError
from safesail.llm.budget import parse_budget
from safesail.llm.lexical import LexicalModel
from safesail.llm.metered import MeteredClient
from safesail.llm.types import LLMAnswer, LLMRequest
from safesail.store.calls import CallTable, export_calls, import_calls
from safesail.store.connection import Db, open_writer
from safesail.store.explanations import read_scores
from safesail.store.registry import start_run
from safesail.store.sql import rows, value
from tests.pool_runs import N_FEATURES, SAE, make_store

FEATURES = [FeatureId(SAE, j) for j in range(N_FEATURES)]
PLAN = Plan(SAE, FEATURES)
CONFIG = AutointerpConfig.model_validate(
    {
        "scoring": {"method": "pooled", "draws": 100, "pool": {"features": 5, "max_rounds": 3}},
        "explain": {"tags": False},
    }
)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("planted") / "store.duckdb"
    make_store(path)
    return path


@pytest.fixture
def store(planted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(planted, tmp_path / "store.duckdb"))


def run(db: Db, budget: str = "unlimited", *, replay: bool = False, plan: Plan = PLAN) -> RunReport:
    settings = ChatSettings("lexical", "lexical", parse_budget(budget), replay=replay)
    return run_plan(db, plan, settings, CONFIG, quiet=True)


def test_planted_features_are_found_each_with_interval_chance_and_look_up(store: Path) -> None:
    with open_writer(store) as db:
        report = run(db)
        assert report.scored == FEATURES
        for score in read_scores(db, SAE):
            assert score.method == "pooled-g5"
            assert score.value is not None and score.low is not None and score.high is not None
            assert score.value > 0.8
            assert score.low <= score.value <= score.high
            assert score.chance is not None and abs(score.chance) < 0.2
            assert score.lookup is not None
            assert score.tokens is not None and score.tokens > 0
        billed = value(db, "SELECT sum(input_tokens + output_tokens) FROM llm_calls WHERE stage = 'simulate'")
        assert sum(s.tokens or 0 for s in read_scores(db, SAE)) == pytest.approx(billed, abs=N_FEATURES)
        # Two groups of five, three rounds; explanations five a call.
        assert value(db, "SELECT count(*) FROM llm_calls WHERE stage = 'simulate'") == 6
        assert value(db, "SELECT count(*) FROM llm_calls WHERE stage = 'explain'") == 2


def test_a_feature_shows_new_windows_each_round(store: Path) -> None:
    with open_writer(store) as db:
        run(db)
        turns = [json.loads(members) for (members,) in rows(db, "SELECT members FROM pools ORDER BY pool_id")]
        assert sorted(turn for members in turns for feature, _, turn in members if feature == 3) == [0, 1, 2]
        # Their own windows: 3 rounds of 2 active and 1 silent one, and those of the others in the group.
        assert all(s.n_windows and s.n_windows >= 3 * 3 * 5 - 12 for s in read_scores(db, SAE))


def test_a_second_run_costs_nothing_and_changes_nothing(store: Path) -> None:
    with open_writer(store) as db:
        run(db)
        before = rows(db, "SELECT * FROM scores ORDER BY feature")
        assert run(db).tokens == 0
        assert rows(db, "SELECT * FROM scores ORDER BY feature") == before


def test_a_small_budget_is_kept_and_what_it_paid_for_is_not_paid_again(store: Path) -> None:
    with open_writer(store) as db:
        first = run(db, "7k")
        assert 0 < first.tokens <= 7000
        assert 0 < len(first.scored) < N_FEATURES
        assert first.scored == FEATURES[: len(first.scored)]
        assert first.stopped_by is not None
        assert first.left == N_FEATURES - len(first.scored)
        second = run(db)
        assert second.scored == FEATURES
        twice = value(db, "SELECT count(*) - count(DISTINCT cache_key) FROM llm_calls WHERE status = 'ok'")
        assert twice == 0
        assert second.tokens + first.tokens == value(
            db, "SELECT sum(input_tokens + output_tokens) FROM llm_calls"
        )
        assert run(db).tokens == 0


def test_a_group_that_the_budget_cannot_pay_for_is_halved_and_goes_on_later(store: Path) -> None:
    with open_writer(store) as db:
        report = run(db, "5k")
        assert report.tokens <= 5000
        assert len(report.scored) == len(report.explained) == 3
        sizes = [len(json.loads(m)) for (m,) in rows(db, "SELECT members FROM pools")]
        assert sizes == [3, 3, 1, 2]  # a third round of all three did not fit
        assert run(db).scored == FEATURES
        assert (
            value(db, "SELECT count(*) - count(DISTINCT cache_key) FROM llm_calls WHERE status = 'ok'") == 0
        )


def test_exported_answers_give_the_same_scores_in_another_store(
    store: Path, planted: Path, tmp_path: Path
) -> None:
    with open_writer(store) as db:
        run(db)
        before = rows(
            db, "SELECT feature, value, low, high, chance, lookup, tokens FROM scores ORDER BY feature"
        )
        export_calls(db, tmp_path / "answers.jsonl")
    other = Path(shutil.copy(planted, tmp_path / "other.duckdb"))
    with open_writer(other) as db:
        with pytest.raises(CacheMissError):
            run(db, replay=True)
        import_calls(db, tmp_path / "answers.jsonl")
        assert run(db, replay=True).tokens == 0
        after = rows(
            db, "SELECT feature, value, low, high, chance, lookup, tokens FROM scores ORDER BY feature"
        )
        assert after == before


class Unruly:
    """The built-in model, but for some answers that are of no use."""

    def __init__(self, bad: set[int]) -> None:
        self.inner = LexicalModel()
        self.bad = bad
        self.n_asked = 0

    @property
    def endpoint(self) -> str:
        return self.inner.endpoint

    def worst_case(self, request: LLMRequest) -> int:
        return self.inner.worst_case(request)

    async def complete(self, request: LLMRequest) -> LLMAnswer:
        answer = await self.inner.complete(request)
        if "explanations" not in request.prompt:
            return answer
        self.n_asked += 1
        spoilt = '{"1":{"Q9":3}}' if self.n_asked in self.bad else answer.text
        return LLMAnswer(spoilt, "stop", answer.input_tokens, answer.output_tokens, "billed")


def walk(db: Db, model: Unruly) -> RunReport:
    run_id = start_run(db, "explain", {})
    config = ChatSettings("lexical", "lexical", parse_budget("unlimited")).named_in(CONFIG)
    client = MeteredClient(model, CallTable(db, run_id), parse_budget("unlimited"))
    pair = ChatPair(client, client, parse_budget("unlimited"))
    origin = score_origin(db, run_id, SAE, config)
    return asyncio.run(make_walk(db, pair, config, origin).run(PLAN, quiet=True))


def test_an_unusable_answer_loses_its_round_only_and_is_not_asked_for_again(store: Path) -> None:
    with open_writer(store) as db:
        assert walk(db, Unruly({2})).scored == FEATURES
        assert rows(db, "SELECT error, tokens > 0 FROM pools WHERE error IS NOT NULL") == [
            ("UnparsableAnswerError", True)
        ]
        before = rows(db, "SELECT feature, value, n_windows, tokens FROM scores ORDER BY feature")
        short = [n for _, _, n, _ in before if n < max(n for _, _, n, _ in before) - 5]
        assert len(short) == 5  # of one group, a third of what they were to be asked about
        again = walk(db, Unruly(set()))
        assert again.tokens == 0
        assert rows(db, "SELECT feature, value, n_windows, tokens FROM scores ORDER BY feature") == before


def test_a_feature_of_which_every_answer_is_bad_fails_with_its_reason(store: Path) -> None:
    with open_writer(store) as db:
        report = walk(db, Unruly(set(range(100))))
        assert report.failed == FEATURES
        assert rows(db, "SELECT DISTINCT error FROM scores") == [("UnparsableAnswerError",)]


def test_features_of_one_concept_and_near_duplicates_share_no_prompt(store: Path) -> None:
    with open_writer(store) as db:
        db.execute("INSERT INTO near_features VALUES (?, 0, 1, 0.95)", [SAE])
        db.execute("INSERT INTO selections VALUES ('s', ?, 'c', '{}', 1, 1, 1)", [SAE])
        for feature in (2, 3):
            db.execute(
                "INSERT INTO feature_concepts VALUES ('s', ?, ?, 'x.y', 0.9, 0, 9, true)", [SAE, feature]
            )
        run(db)
        together = [
            {m[0] for m in json.loads(members)} for (members,) in rows(db, "SELECT members FROM pools")
        ]
        assert not any({0, 1} <= members or {2, 3} <= members for members in together)


def test_a_dry_run_prices_pools_and_knows_what_is_paid(store: Path) -> None:
    settings = ChatSettings("lexical", "lexical", parse_budget("unlimited"))
    with open_writer(store) as db:
        before = forecast(db, PLAN, settings, CONFIG)
        spent = run(db).tokens
        assert before.finished == N_FEATURES
        assert 0.6 < before.cost.tokens / spent < 1.6
        after = forecast(db, PLAN, settings, CONFIG)
        assert (after.cost.calls, after.cost.tokens) == (0, 0)
        assert value(db, "SELECT count(*) FROM runs WHERE stage = 'explain'") == 1

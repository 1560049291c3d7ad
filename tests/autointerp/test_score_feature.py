import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safesail.autointerp.config import Method, ScoringConfig
from safesail.autointerp.loop import chance_partners
from safesail.autointerp.simulator import batches_of, score_feature
from safesail.autointerp.units import units_of
from safesail.domain.ids import FeatureId
from safesail.domain.records import Exemplar, Explanation, Score, Window
from safesail.errors import BudgetExceededError
from safesail.llm.budget import parse_budget
from safesail.llm.lexical import LexicalModel
from safesail.store.connection import Db, open_writer
from safesail.store.sql import value
from tests.made_windows import FEATURE, ScriptedModel, exemplar, metered

OTHER = Explanation(FeatureId("sae", 8), "Fires on “choir”.", (), "someone", "hash")
BOMBS = Explanation(FEATURE, "Fires on “bomb”.", (), "someone", "hash")
WINDOWS = [
    exemplar("they say that a bomb went off at noon in the town", {"bomb": 3.0}),
    exemplar("we heard of the bomb and then of nothing else all day", {"bomb": 5.0}),
    exemplar("a choir sang in the old town until late at night"),
    exemplar("there was soup and bread for all of the guests"),
]


def scored(
    db: Db, model: ScriptedModel | LexicalModel, config: ScoringConfig, other: Explanation | None = None
) -> Score:
    return asyncio.run(score_feature(metered(db, model), BOMBS, WINDOWS, config, other=other))


def truth(config: ScoringConfig) -> list[str]:
    """The answers of a simulator that knows."""
    answers: list[str] = []
    for batch in batches_of(WINDOWS, config.calls_windows):
        named: dict[str, float] = {}
        for letter, units in zip("ABCD", units_of(batch, config), strict=False):
            for number, true in enumerate(units.true, 1):
                if true:
                    named[f"{letter}{number}" if config.method == "segment" else letter] = true
        answers.append(json.dumps({"active": named if config.method == "segment" else list(named)}))
    return answers


@pytest.mark.parametrize("method", ["segment", "detection", "fuzzing"])
def test_a_simulator_that_knows_scores_one(db: Db, method: Method) -> None:
    config = ScoringConfig(method=method)
    found = scored(db, ScriptedModel(truth(config)), config)
    assert found.value == pytest.approx(1.0)
    assert (found.auc, found.balanced_accuracy, found.reason) == (1.0, 1.0, None)
    assert (found.method, found.simulator, found.n_windows) == (method, "lexical @ scripted", 4)
    assert value(db, "SELECT prompt_hash FROM llm_calls") == found.prompt_hash


@pytest.mark.parametrize("method", ["segment", "token", "detection", "fuzzing"])
def test_the_right_explanation_scores_above_another_features(db: Db, method: Method) -> None:
    found = scored(db, LexicalModel(), ScoringConfig(method=method), OTHER)
    assert found.value is not None
    assert found.chance is not None
    assert found.value > 0.6 > 0.2 > found.chance
    assert found.low is not None
    assert found.high is not None
    assert found.low - 1e-9 <= found.value <= found.high + 1e-9


def test_a_constant_simulator_is_undefined_with_its_reason(db: Db) -> None:
    found = scored(db, ScriptedModel(['{"active": {}}']), ScoringConfig(method="segment"))
    assert (found.value, found.low, found.high) == (None, None, None)
    assert found.reason == "simulated values are constant"
    assert found.balanced_accuracy == 0.5


def test_nothing_answered_is_a_failure(db: Db) -> None:
    found = scored(db, ScriptedModel(["As an AI, I prefer not to."]), ScoringConfig(method="segment"))
    assert (found.error, found.method, found.tokens) == ("RefusedAnswerError", "segment", 15)


def test_a_score_over_less_than_half_of_the_windows_is_undefined(db: Db) -> None:
    config = ScoringConfig(method="segment", windows_per_call=1)
    answers = [truth(config)[0], "?", "?", "?"]
    found = scored(db, ScriptedModel(answers), config)
    assert found.value is None
    assert found.reason is not None
    assert found.reason.startswith("only 1 of 4 windows were answered; UnparsableAnswerError: not JSON")


def test_half_of_the_windows_is_enough(db: Db) -> None:
    config = ScoringConfig(method="segment", windows_per_call=2)
    found = scored(db, ScriptedModel([truth(config)[0], "?"]), config)
    assert found.value == pytest.approx(1.0)
    assert found.n_windows == 2


def test_chance_is_none_where_the_other_explanation_gets_no_answer(db: Db) -> None:
    found = scored(
        db,
        ScriptedModel([*truth(ScoringConfig(method="segment")), "?"]),
        ScoringConfig(method="segment"),
        OTHER,
    )
    assert found.value == pytest.approx(1.0)
    assert found.chance is None
    assert found.tokens == 15  # the chance line is not part of what the score cost


def test_no_windows_is_a_failure_that_costs_nothing(db: Db) -> None:
    model = ScriptedModel([])
    found = asyncio.run(
        score_feature(metered(db, model), BOMBS, [], ScoringConfig(method="segment"), other=None)
    )
    assert (found.error, found.tokens, model.asked) == ("NoWindows", 0, [])


def test_train_windows_are_never_scored(db: Db) -> None:
    shown = [exemplar("a bomb", {"bomb": 1.0}, split="train")]
    with pytest.raises(AssertionError, match="held-out"):
        asyncio.run(
            score_feature(
                metered(db, LexicalModel()), BOMBS, shown, ScoringConfig(method="segment"), other=None
            )
        )


def test_the_end_of_the_budget_is_raised(db: Db) -> None:
    client = metered(db, LexicalModel(), parse_budget("50"))
    with pytest.raises(BudgetExceededError):
        asyncio.run(score_feature(client, BOMBS, WINDOWS, ScoringConfig(method="segment"), other=None))


def test_scoring_again_costs_nothing_and_gives_the_same(db: Db) -> None:
    client = metered(db, LexicalModel())
    first, second = (
        asyncio.run(score_feature(client, BOMBS, WINDOWS, ScoringConfig(method="segment"), other=OTHER))
        for _ in range(2)
    )
    assert first == second
    assert client.spent_tokens == value(db, "SELECT sum(input_tokens + output_tokens) FROM llm_calls")
    assert value(db, "SELECT count(*) FROM llm_calls") == 2  # the explanation, and the chance line


def test_segments_cost_a_fraction_of_tokens(tmp_path: Path) -> None:
    text = "we heard of soup and bread and of a choir in the old town " * 4
    windows = [exemplar(f"{i} {text}{'bomb' if i % 2 else 'soup'}", {"bomb": 1.0}) for i in range(20)]
    billed: dict[str, int] = {}
    for method in ("token", "segment"):
        with open_writer(tmp_path / f"{method}.duckdb") as db:
            found = asyncio.run(
                score_feature(
                    metered(db, LexicalModel()), BOMBS, windows, ScoringConfig(method=method), other=None
                )
            )
            billed[method] = found.tokens or 0
    assert billed["segment"] < 0.15 * billed["token"]


@given(st.lists(st.integers(0, 500), min_size=1, max_size=40, unique=True), st.integers(0, 4))
def test_chance_partners_come_before_and_do_not_depend_on_what_comes_after(
    indices: list[int], every: int
) -> None:
    features = [FeatureId("sae", i) for i in indices]
    for number in range(len(features)):
        partners = chance_partners(features, number, every)
        assert partners == chance_partners(features[: number + 1], number, every)
        has_line = every > 0 and number > 0 and number % every == 0
        assert sorted(partners) == (list(range(number)) if has_line else [])


@pytest.mark.shared
def test_a_human_puzzle_whose_explanation_quotes_its_word(db: Db, shared_dir: Path) -> None:
    """The true explanation beats every false one. The built-in rule knows no kinds of words, so it solves no other."""
    puzzle = json.loads((shared_dir / "data/neuron_puzzles/puzzles.json").read_text())["of"]
    client = metered(db, LexicalModel())
    windows = [_window(sentence) for sentence in puzzle["sentences"]]
    scores: list[float] = []
    for text in (puzzle["explanation"], *puzzle["false_explanations"]):
        claim = Explanation(FEATURE, text, (), "puzzle", "-")
        scored = asyncio.run(score_feature(client, claim, windows, ScoringConfig(method="token"), other=None))
        scores.append(scored.value or 0.0)
    assert scores[0] > max(scores[1:])


def _window(sentence: list[str | list[str | int]]) -> Exemplar:
    tokens = [token if isinstance(token, str) else str(token[0]) for token in sentence]
    activations = tuple(0.0 if isinstance(token, str) else float(token[1]) for token in sentence)
    window = Window("".join(tokens), 0, tuple(range(len(tokens))), tuple(tokens), "test")
    return Exemplar(FEATURE, window, activations, "active" if max(activations) else "random", 1)

"""Cache, ledger and budget round a client: nothing is paid twice, nothing goes unrecorded."""

import asyncio
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from safesail.domain.ids import FeatureId
from safesail.errors import (
    BudgetExceededError,
    CacheMissError,
    LLMUnavailableError,
    RefusedAnswerError,
    TransientLLMError,
    TruncatedAnswerError,
    UnparsableAnswerError,
)
from safesail.llm import metered
from safesail.llm.budget import Price, parse_budget
from safesail.llm.metered import MeteredClient
from safesail.llm.types import Answered, CallContext, LLMAnswer, LLMRequest
from safesail.store.calls import CallTable, ledger_rows, total_tokens
from safesail.store.connection import Db
from safesail.store.sql import rows

CONTEXT = CallContext("explain", "hash", FeatureId("sae", 7))
GOOD = LLMAnswer("yes", "stop", 10, 5, "billed")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metered, "FIRST_WAIT", 0.001)


@dataclass
class Model:
    """Does what it is told, one thing after the other, and the last for ever; worst case 100 tokens."""

    script: Sequence[LLMAnswer | Exception] = (GOOD,)
    seconds: float = 0.0
    asked: list[LLMRequest] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    @property
    def endpoint(self) -> str:
        return "test"

    def worst_case(self, request: LLMRequest) -> int:
        return 100

    async def complete(self, request: LLMRequest) -> LLMAnswer:
        step = self.script[min(len(self.asked), len(self.script) - 1)]
        self.asked.append(request)
        with self._counted():
            await asyncio.sleep(self.seconds)
        if isinstance(step, Exception):
            raise step
        return step

    @contextmanager
    def _counted(self) -> Generator[None, None, None]:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            yield
        finally:
            self.at_once -= 1


def request(prompt: str = "what?", model: str = "m") -> LLMRequest:
    return LLMRequest(model, "test", "system", prompt, 0.0, 20)


def client(db: Db, model: Model, budget: str = "100k", run_id: str = "run", **more: Any) -> MeteredClient:
    return MeteredClient(model, CallTable(db, run_id), parse_budget(budget), **more)


def ask(made: MeteredClient, *requests: LLMRequest) -> list[Answered | BaseException]:
    async def body() -> list[Answered | BaseException]:
        return await asyncio.gather(*(made.ask(r, CONTEXT) for r in requests), return_exceptions=True)

    return asyncio.run(body())


def status(db: Db) -> list[tuple[Any, ...]]:
    return rows(
        db, "SELECT status, error, reserved, input_tokens, output_tokens FROM llm_calls ORDER BY call_id"
    )


def test_a_second_run_pays_nothing(db: Db) -> None:
    model = Model()
    assert ask(client(db, model), request()) == [Answered(GOOD, cached=False)]
    later = client(db, model, "1", run_id="later")  # not even one call would fit
    assert ask(later, request()) == [Answered(GOOD, cached=True)]
    assert later.spent_tokens == 0
    assert len(model.asked) == 1
    assert total_tokens(db) == 15


def test_the_same_question_at_the_same_time_is_sent_once(db: Db) -> None:
    model = Model(seconds=0.01)
    answers = ask(client(db, model), *[request()] * 5, request("other"))
    assert [a.cached for a in answers if isinstance(a, Answered)] == [False, True, True, True, True, False]
    assert len(model.asked) == 2


def test_two_models_of_one_run_share_purse_and_questions_under_way(db: Db) -> None:
    explainer, simulator = Model(seconds=0.01), Model(seconds=0.01)
    first = client(db, explainer, "230")
    second = first.sharing(simulator)

    async def body() -> None:
        await asyncio.gather(
            first.ask(request("a"), CONTEXT), second.ask(request("b"), CONTEXT),
            first.ask(request("c"), CONTEXT), second.ask(request("a"), CONTEXT),
        )  # fmt: skip

    asyncio.run(body())
    assert [r.prompt for r in explainer.asked] == ["a", "c"]
    assert [r.prompt for r in simulator.asked] == ["b"]
    assert first.spent_tokens == second.spent_tokens == 45


def test_no_more_calls_at_once_than_allowed(db: Db) -> None:
    model = Model(seconds=0.002)
    ask(client(db, model, concurrency=3), *(request(str(i)) for i in range(12)))
    assert model.most_at_once == 3


def test_money_held_by_calls_under_way_is_waited_for_and_the_rest_is_refused(db: Db) -> None:
    model = Model(seconds=0.002)  # holds 100, costs 15: ten of them fit into 245 (9 * 15 + 100 = 235)
    made = client(db, model, "245")
    answers = ask(made, *(request(str(i)) for i in range(12)))
    assert sum(isinstance(a, Answered) for a in answers) == 10
    assert sum(isinstance(a, BudgetExceededError) for a in answers) == 2
    assert made.spent_tokens == 150
    assert len(status(db)) == 10  # what was never sent is no row


def test_failed_attempts_are_rows_of_their_own(db: Db) -> None:
    script = [
        TransientLLMError("busy", maybe_billed=False, retry_after=0.0),
        TransientLLMError("no answer in time", maybe_billed=True),
        GOOD,
    ]
    made = client(db, Model(script))
    assert ask(made, request()) == [Answered(GOOD, cached=False)]
    assert status(db) == [
        ("failed", "TransientLLMError", 100, 0, 0),
        ("failed", "TransientLLMError", 100, 100, 0),  # it may have been billed: its worst case
        ("ok", None, 100, 10, 5),
    ]
    assert made.spent_tokens == total_tokens(db) == 115
    (row,) = ledger_rows(db, ["stage"])
    assert (row["calls"], row["failed"], row["tokens in"], row["tokens out"]) == (3, 2, 110, 5)
    assert row["partly estimated"]


def test_retries_never_spend_more_than_the_budget(db: Db) -> None:
    model = Model([TransientLLMError("no answer in time", maybe_billed=True)])
    (error,) = ask(client(db, model, "250"), request())
    assert isinstance(error, BudgetExceededError)
    assert len(model.asked) == 2
    assert total_tokens(db) == 200


def test_a_dead_endpoint_ends_it_after_the_last_attempt(db: Db) -> None:
    model = Model([TransientLLMError("the connection broke", maybe_billed=False)])
    (error,) = ask(client(db, model), request())
    assert isinstance(error, LLMUnavailableError)
    assert str(error) == "test failed 6 times: the connection broke"
    assert len(model.asked) == 6
    assert total_tokens(db) == 0


def test_an_endpoint_that_asks_for_an_hour_is_not_asked_again(db: Db) -> None:
    model = Model([TransientLLMError("busy", maybe_billed=False, retry_after=3600.0)])
    (error,) = ask(client(db, model), request())
    assert isinstance(error, LLMUnavailableError)
    assert str(error) == "test asks to wait 3600 seconds; try again then"
    assert len(model.asked) == 1


def test_it_waits_as_long_as_the_endpoint_asks(db: Db) -> None:
    model = Model([TransientLLMError("busy", maybe_billed=False, retry_after=0.15), GOOD])

    async def body() -> float:
        loop = asyncio.get_running_loop()
        before = loop.time()
        await client(db, model).ask(request(), CONTEXT)
        return loop.time() - before

    assert asyncio.run(body()) >= 0.15


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (replace(GOOD, finish="length"), TruncatedAnswerError),
        (replace(GOOD, text=" \n"), UnparsableAnswerError),
        (replace(GOOD, finish="content_filter"), RefusedAnswerError),
    ],
)
def test_a_bad_answer_is_paid_kept_and_never_reused(db: Db, answer: LLMAnswer, kind: type[Exception]) -> None:
    model = Model([answer, GOOD])
    made = client(db, model)
    (error,) = ask(made, request())
    assert type(error) is kind
    assert status(db) == [("failed", kind.__name__, 100, 10, 5)]
    assert rows(db, "SELECT answer, finish FROM llm_calls") == [(answer.text, answer.finish)]
    assert ask(client(db, model), request()) == [Answered(GOOD, cached=False)]


def no_numbers(text: str) -> None:
    if any(c.isdigit() for c in text):
        raise UnparsableAnswerError("a number")


def test_an_answer_that_does_not_parse_is_never_reused(db: Db) -> None:
    model = Model([replace(GOOD, text="7"), GOOD])
    made = client(db, model)
    with pytest.raises(UnparsableAnswerError):
        asyncio.run(made.ask(request(), CONTEXT, no_numbers))
    assert status(db) == [("failed", "UnparsableAnswerError", 100, 10, 5)]
    assert asyncio.run(made.ask(request(), CONTEXT, no_numbers)) == Answered(GOOD, cached=False)


def test_replay_fails_where_the_run_failed(db: Db) -> None:
    model = Model([replace(GOOD, text="7")])
    with pytest.raises(UnparsableAnswerError):
        asyncio.run(client(db, model).ask(request(), CONTEXT, no_numbers))
    again = client(db, model, replay=True)
    with pytest.raises(UnparsableAnswerError):
        asyncio.run(again.ask(request(), CONTEXT, no_numbers))
    assert len(model.asked) == 1
    # A parser that has learnt to read it takes it.
    assert asyncio.run(again.ask(request(), CONTEXT)).answer.text == "7"


@pytest.mark.parametrize("error", [RefusedAnswerError("filtered"), LLMUnavailableError("out of credit")])
def test_what_the_client_gives_up_on_is_not_tried_again_and_costs_nothing(db: Db, error: Exception) -> None:
    model = Model([error])
    assert ask(client(db, model), request()) == [error]
    assert len(model.asked) == 1
    assert status(db) == [("failed", type(error).__name__, 100, 0, 0)]


def test_a_cancelled_call_counts_at_its_worst_case(db: Db) -> None:
    made = client(db, Model(seconds=60), "150")

    async def body() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(made.ask(request(), CONTEXT), timeout=0.02)
        with pytest.raises(BudgetExceededError):
            await made.ask(request("other"), CONTEXT)

    asyncio.run(body())
    assert status(db) == [("failed", "Interrupted", 100, 100, 0)]


def test_an_error_of_our_own_leaves_no_open_row(db: Db) -> None:
    (error,) = ask(client(db, Model([ZeroDivisionError()])), request())
    assert isinstance(error, ZeroDivisionError)
    assert status(db) == [("failed", "Interrupted", 100, 100, 0)]


def test_replay_takes_what_is_there_and_sends_nothing(db: Db) -> None:
    model = Model()
    ask(client(db, model), request())
    replaying = client(db, model, replay=True)
    known, missing = ask(replaying, request(), request("new"))
    assert known == Answered(GOOD, cached=True)
    assert isinstance(missing, CacheMissError)
    assert str(missing) == "replay: no cached answer of m for explain of sae#7"
    assert isinstance(ask(replaying.sharing(model), request("newer"))[0], CacheMissError)
    assert len(model.asked) == 1


def left_open(db: Db, run_id: str) -> None:
    """A run that was killed while it waited for an answer."""
    CallTable(db, run_id).reserve(request("killed"), CONTEXT, 100)


def test_a_killed_run_that_goes_on_has_spent_what_it_had_under_way(db: Db) -> None:
    ask(client(db, Model()), request())
    left_open(db, "run")
    again = client(db, Model(), "200")
    assert again.spent_tokens == 115
    (error,) = ask(again, request("next"))
    assert isinstance(error, BudgetExceededError)
    assert "85 tokens of the budget of 200 tokens are left" in str(error)
    assert ask(client(db, Model(), "215"), request("next")) == [Answered(GOOD, cached=False)]


def test_a_new_run_has_its_own_budget_and_shows_what_the_dead_one_lost(db: Db) -> None:
    left_open(db, "dead")
    made = client(db, Model(), "100", run_id="new")
    assert ask(made, request()) == [Answered(GOOD, cached=False)]
    assert status(db)[0] == ("lost", "Interrupted", 100, 100, 0)
    assert (total_tokens(db, "dead"), total_tokens(db, "new"), total_tokens(db)) == (100, 15, 115)


@pytest.mark.parametrize("budget", ["3calls", "$0.002"])
def test_other_units_go_on_too(db: Db, budget: str) -> None:
    prices = {"m": Price(input=10, output=10)}  # a call holds $0.001 and costs $0.00015
    made = client(db, Model(), budget, prices=prices)
    ask(made, request())
    left_open(db, "run")
    again = client(db, Model(), budget, prices=prices).sharing(Model())
    outcomes: list[Callable[[Answered | BaseException], bool]] = [
        lambda a: isinstance(a, Answered),
        lambda a: isinstance(a, BudgetExceededError),
    ]
    answers = [ask(again, request(str(i)))[0] for i in range(2)]
    # Three calls: one done, one lost, one left. $0.002: 0.00015 done, 0.001 lost, 0.00085 left, too little.
    wanted = outcomes if budget == "3calls" else [outcomes[1], outcomes[1]]
    assert all(is_so(answer) for is_so, answer in zip(wanted, answers, strict=True))


def test_prices_are_in_the_ledger(db: Db) -> None:
    script = [TransientLLMError("no answer in time", maybe_billed=True), GOOD]
    made = client(db, Model(script), "$1", prices={"m": Price(input=1, output=4)})
    ask(made, request())
    # Lost: 100 tokens at the dearer $4 a million. Answered: 10 at $1 and 5 at $4.
    (row,) = ledger_rows(db, ["model"])
    assert row["dollars"] == pytest.approx(400e-6 + 30e-6)


def test_the_ledger_knows_what_a_call_was_for(db: Db) -> None:
    ask(client(db, Model()), request())
    assert rows(db, "SELECT run_id, stage, sae_id, feature, model, endpoint, prompt_hash FROM llm_calls") == [
        ("run", "explain", "sae", 7, "m", "test", "hash")
    ]
    assert rows(db, "SELECT seconds >= 0, created_at IS NOT NULL FROM llm_calls") == [(True, True)]

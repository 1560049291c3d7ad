"""Money: spent plus held never exceeds the budget, whatever comes in whichever order."""

import asyncio
import random
from collections.abc import Awaitable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safesail.errors import BudgetExceededError, ConfigError
from safesail.llm.budget import Budget, Price
from safesail.llm.budget_tracker import BudgetTracker, Spent

PRICES = {"m": Price(input=1, output=4), "cheap": Price(input=0.5, output=0.25)}


def tokens(amount: float) -> BudgetTracker:
    return BudgetTracker(Budget("tokens", amount), {})


def spent(n: int, model: str = "m") -> Spent:
    return Spent(model, 1, n, 0.0, n)


def test_what_is_held_is_given_back_and_what_was_billed_is_taken() -> None:
    async def body() -> None:
        tracker = tokens(100)
        held = await tracker.reserve("m", 60)
        assert tracker.left == 40
        tracker.settle(held, spent(10))
        assert tracker.left == 90
        assert tracker.tokens == 10

    asyncio.run(body())


def test_exactly_the_rest_fits_and_one_token_more_does_not() -> None:
    async def body() -> None:
        tracker = tokens(100)
        tracker.settle(await tracker.reserve("m", 100), spent(40))
        tracker.settle(await tracker.reserve("m", 60), spent(0))
        with pytest.raises(BudgetExceededError) as caught:
            await tracker.reserve("m", 61)
        assert str(caught.value) == (
            "the next call may cost 61 tokens, and 60 tokens of the budget of 100 tokens are left;"
            " give a larger --budget"
        )
        assert tracker.left == 60  # the refused call holds nothing

    asyncio.run(body())


def test_a_call_waits_for_money_that_calls_under_way_will_give_back() -> None:
    async def body() -> None:
        tracker = tokens(100)
        first = await tracker.reserve("m", 80)
        second = asyncio.create_task(tracker.reserve("m", 50))
        await asyncio.sleep(0)
        assert not second.done()
        tracker.settle(first, spent(20))
        tracker.settle(await second, spent(50))
        assert tracker.tokens == 70

    asyncio.run(body())


def test_it_is_refused_once_nothing_under_way_can_give_anything_back() -> None:
    async def body() -> None:
        tracker = tokens(100)
        first = await tracker.reserve("m", 80)
        second = asyncio.create_task(tracker.reserve("m", 50))
        await asyncio.sleep(0)
        tracker.settle(first, spent(80))
        with pytest.raises(BudgetExceededError, match="20 tokens of the budget of 100 tokens"):
            await second

    asyncio.run(body())


def test_one_who_stops_waiting_takes_nothing_and_stops_nobody() -> None:
    async def body() -> None:
        tracker = tokens(100)
        first = await tracker.reserve("m", 80)
        quitter, other = (asyncio.create_task(tracker.reserve("m", 90)) for _ in range(2))
        await asyncio.sleep(0)
        quitter.cancel()
        await asyncio.gather(quitter, return_exceptions=True)
        tracker.settle(first, spent(5))
        tracker.settle(await other, spent(0))
        assert tracker.left == 95

    asyncio.run(body())


def test_dollars_are_held_at_the_dearer_rate_and_taken_as_billed() -> None:
    async def body() -> None:
        tracker = BudgetTracker(Budget("dollars", 5), PRICES)
        held = await tracker.reserve("m", 1_000_000)  # $4 a million for output
        assert tracker.left == pytest.approx(1)
        tracker.settle(held, Spent("m", 1, 1_000_000, 1.0, 0))  # all of it was prompt
        assert tracker.left == pytest.approx(4)
        held = await tracker.reserve("cheap", 1_000_000)  # here the prompt is dearer: $0.5
        assert tracker.left == pytest.approx(3.5)
        tracker.settle(held, Spent("cheap", 1, 400_000, 0.0, 400_000))  # nobody said what it cost
        assert tracker.left == pytest.approx(3.8)
        with pytest.raises(BudgetExceededError, match=r"\$4\.0000, and \$3\.8000 of the budget of \$5\.0000"):
            await tracker.reserve("m", 1_000_000)

    asyncio.run(body())


def test_dollars_need_a_price() -> None:
    tracker = BudgetTracker(Budget("dollars", 5), PRICES)
    with pytest.raises(ConfigError, match="needs a price of unheard-of; name a table with --prices"):
        asyncio.run(tracker.reserve("unheard-of", 10))


def test_calls_are_counted_whatever_they_cost() -> None:
    async def body() -> None:
        tracker = BudgetTracker(Budget("calls", 2), {})
        for cost in (0, 10**9):
            tracker.settle(await tracker.reserve("m", 10**9), spent(cost))
        with pytest.raises(
            BudgetExceededError, match="may cost 1 calls, and 0 calls of the budget of 2 calls"
        ):
            await tracker.reserve("m", 1)

    asyncio.run(body())


def test_unlimited_counts_all_the_same() -> None:
    async def body() -> None:
        tracker = BudgetTracker(Budget("unlimited", float("inf")), {})
        tracker.settle(await tracker.reserve("m", 10**12), spent(10**12))
        assert tracker.tokens == 10**12

    asyncio.run(body())


@pytest.mark.parametrize(
    ("budget", "left"),
    [(Budget("tokens", 1000), 700), (Budget("calls", 10), 5), (Budget("dollars", 1), 1 - 0.25 - 4 * 200e-6)],
)
def test_what_the_ledger_has_of_a_run_is_spent_already(budget: Budget, left: float) -> None:
    tracker = BudgetTracker(budget, PRICES, [Spent("m", 3, 200, 0.0, 200), Spent("cheap", 2, 100, 0.25, 0)])
    assert tracker.left == pytest.approx(left)
    assert tracker.tokens == 300


@settings(max_examples=150)
@given(
    amount=st.integers(1, 500),
    calls=st.lists(st.tuples(st.integers(1, 200), st.floats(0, 1), st.integers(0, 5)), max_size=25),
    unit=st.sampled_from(("tokens", "calls", "dollars")),
    seed=st.integers(0, 10**6),
)
def test_never_over_budget_in_any_order(
    amount: int, calls: list[tuple[int, float, int]], unit: str, seed: int
) -> None:
    """Each call holds its worst case, takes some turns of the loop, and is billed a share of it at most."""
    scale = 4e-6 if unit == "dollars" else 1  # the budget in tokens at the dearer rate
    tracker = BudgetTracker(Budget(unit, amount * scale), PRICES)  # pyright: ignore[reportArgumentType]
    order = random.Random(seed)
    outcomes: list[str] = []

    def check() -> None:
        assert tracker.left >= -1e-12

    async def call(worst: int, share: float, turns: int) -> None:
        try:
            held = await tracker.reserve("m", worst)
        except BudgetExceededError:
            outcomes.append("refused")
            return
        check()
        for _ in range(turns + order.randrange(3)):
            await asyncio.sleep(0)
        billed = int(worst * share)
        price = 4e-6 * billed if unit == "dollars" else 0.0
        tracker.settle(held, Spent("m", 1, billed, price, 0 if price else billed))
        check()
        outcomes.append("answered")

    async def body() -> None:
        started: list[Awaitable[None]] = [call(*c) for c in calls]
        await asyncio.wait_for(asyncio.gather(*started), timeout=5)

    asyncio.run(body())
    assert len(outcomes) == len(calls)  # nobody waits for ever
    if unit == "calls":
        assert outcomes.count("answered") == min(amount, len(calls))

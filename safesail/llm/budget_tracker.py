"""What is left of a budget, while many calls are under way at once."""

import asyncio
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

from safesail.errors import BudgetExceededError, ConfigError
from safesail.llm.budget import Budget, Prices, price_of


@dataclass(frozen=True)
class Spent:
    """What a run has spent on one model so far, attempts of unknown end at their worst case."""

    model: str
    attempts: int
    tokens: int
    price: float
    """US dollars of the attempts that have a price."""

    unpriced_tokens: int
    """Tokens of those that have none."""


class BudgetTracker:
    """Spent, plus the worst case of everything under way, never exceeds the budget."""

    def __init__(self, budget: Budget, prices: Prices, spent: Iterable[Spent] = ()) -> None:
        self.budget = budget
        self.prices = prices
        self.tokens = 0
        self.gap = 0.0
        """The most that an attempt has cost less than was reserved for it, in the budget's unit."""

        self._spent = 0.0
        self._reserved: dict[int, float] = {}
        self._numbers = itertools.count()
        self._waiting: list[asyncio.Future[None]] = []
        for entry in spent:
            self._add(entry)

    @property
    def left(self) -> float:
        """Neither spent nor reserved, in the budget's unit; below zero only if a bill exceeded its worst case."""
        return self.budget.amount - self._spent - math.fsum(self._reserved.values())

    async def reserve(self, model: str, worst: int) -> int:
        """Set the worst case of one attempt aside; returns the number to settle it under.

        Calls under way nearly always cost less than is reserved for them: what does not fit now waits for them.

        Raises:
            BudgetExceededError: it does not fit even with nothing under way.
            ConfigError: a budget in dollars, and the model has no price.
        """
        need = self._cost(model, worst)
        while need > self.left:
            if not self._reserved:
                written = self.budget.written
                raise BudgetExceededError(
                    f"the next call may cost {written(need)}, and {written(max(0.0, self.left))}"
                    f" of the budget of {written(self.budget.amount)} are left; give a larger --budget"
                )
            freed = asyncio.get_running_loop().create_future()
            self._waiting.append(freed)
            await freed
        number = next(self._numbers)
        self._reserved[number] = need
        return number

    @property
    def unspent(self) -> float:
        """What is not spent, reserved or not, in the budget's unit."""
        return self.budget.amount - self._spent

    def settle(self, number: int, spent: Spent) -> float:
        """Give back what was reserved under `number` and take what was spent; those who wait look again.

        Returns:
            What was taken, in the budget's unit.
        """
        reserved = self._reserved.pop(number)
        before = self._spent
        self._add(spent)
        self.gap = max(self.gap, reserved - (self._spent - before))
        waiting, self._waiting = self._waiting, []
        for freed in waiting:
            if not freed.done():  # cancelled while it waited
                freed.set_result(None)
        return self._spent - before

    def dearest(self, model: str, tokens: int) -> float | None:
        """Dollars for `tokens` if all were of the dearer kind: never less than the bill. None without a price."""
        kinds = (price_of(self.prices, model, tokens, 0), price_of(self.prices, model, 0, tokens))
        known = [price for price in kinds if price is not None]
        return max(known) if known else None

    def _add(self, spent: Spent) -> None:
        self.tokens += spent.tokens
        match self.budget.unit:
            case "calls":
                self._spent += spent.attempts
            case "dollars":
                unpriced = self._cost(spent.model, spent.unpriced_tokens) if spent.unpriced_tokens else 0.0
                self._spent += spent.price + unpriced
            case _:
                self._spent += spent.tokens

    def _cost(self, model: str, tokens: int) -> float:
        match self.budget.unit:
            case "calls":
                return 1
            case "dollars":
                cost = self.dearest(model, tokens)
                if cost is None:
                    raise ConfigError(
                        f"a budget in dollars needs a price of {model}; name a table with --prices"
                    )
                return cost
            case _:
                return tokens

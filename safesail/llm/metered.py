"""A chat client with a cache, a ledger and a budget round it: the only way in which stages ask a model."""

import asyncio
import random
import time
from dataclasses import dataclass, replace
from typing import Protocol

from safesail.errors import (
    BadAnswerError,
    BudgetExceededError,
    CacheMissError,
    ConfigError,
    LLMUnavailableError,
    RefusedAnswerError,
    TransientLLMError,
    TruncatedAnswerError,
    UnparsableAnswerError,
)
from safesail.llm.budget import Budget, Prices, price_of
from safesail.llm.types import Answered, CallContext, ChatClient, LLMAnswer, LLMRequest

MAX_ATTEMPTS = 6
FIRST_WAIT = 0.5
"""Seconds before the second attempt; doubled each time, with jitter."""

LONGEST_WAIT = 60.0


@dataclass(frozen=True)
class CallRecord:
    """How one attempt ended, for the ledger."""

    answer: LLMAnswer | None
    """None where there was none."""

    error: str | None
    """Class of the error; None for a good answer, the only kind that is reused."""

    input_tokens: int
    output_tokens: int
    usage_source: str
    price: float | None
    seconds: float


class Ledger(Protocol):
    """Where calls are kept: the store's table `llm_calls`, handed in by the pipeline."""

    def lookup(self, cache_key: str) -> LLMAnswer | None:
        """A good answer given before, in any run."""
        ...

    def reserve(self, request: LLMRequest, context: CallContext, worst_case: int) -> int:
        """Record, before it is sent, that a call is under way; returns its id."""
        ...

    def settle(self, call_id: int, record: CallRecord) -> None:
        """Record how it ended."""
        ...


class MeteredClient:
    """Asks a model through the cache, within the budget, and writes every attempt to the ledger."""

    def __init__(
        self,
        inner: ChatClient,
        ledger: Ledger,
        budget: Budget,
        *,
        prices: Prices | None = None,
        replay: bool = False,
        concurrency: int = 8,
    ) -> None:
        self.inner = inner
        self._ledger = ledger
        self._purse = _Purse(budget, prices or {})
        self._replay = replay
        self._gate = asyncio.Semaphore(concurrency)
        self._under_way: dict[str, asyncio.Lock] = {}

    @property
    def endpoint(self) -> str:
        """Of the client inside."""
        return self.inner.endpoint

    @property
    def spent_tokens(self) -> int:
        """Tokens that this client newly spent, attempts that failed after being sent included."""
        return self._purse.tokens

    def sharing(self, inner: ChatClient) -> "MeteredClient":
        """Another model through the same ledger and the same purse."""
        twin = MeteredClient(inner, self._ledger, self._purse.budget, replay=self._replay)
        twin._purse, twin._gate = self._purse, self._gate
        return twin

    async def ask(self, request: LLMRequest, context: CallContext) -> Answered:
        """Answer from the cache, or else from the model.

        Raises:
            BudgetExceededError: the worst case of the call does not fit into what is left; nothing was sent.
            CacheMissError: replay was asked for and the answer is not in the cache.
            BadAnswerError: refused, truncated or empty; it is in the ledger.
            LLMUnavailableError: every attempt failed.
        """
        key = request.cache_key()
        lock = self._under_way.setdefault(key, asyncio.Lock())
        async with lock:  # two who ask the same at once share one call
            known = self._ledger.lookup(key)
            if known is not None:
                return Answered(known, cached=True)
            if self._replay:
                raise CacheMissError(
                    f"replay: no cached answer of {request.model} for {context.stage} of {context.feature}"
                )
            async with self._gate:
                return Answered(await self._attempts(request, context), cached=False)

    async def _attempts(self, request: LLMRequest, context: CallContext) -> LLMAnswer:
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                return await self._one(request, context)
            except TransientLLMError as error:
                if attempt == MAX_ATTEMPTS:
                    raise LLMUnavailableError(f"{self.endpoint} failed {attempt} times: {error}") from error
                await asyncio.sleep(_wait(attempt, error.retry_after))
        raise AssertionError("the last attempt returns or raises")

    async def _one(self, request: LLMRequest, context: CallContext) -> LLMAnswer:
        worst = self.inner.worst_case(request)
        self._purse.reserve(request.model, worst)
        call_id = self._ledger.reserve(request, context, worst)
        started = time.perf_counter()
        record = CallRecord(
            None, "Interrupted", worst, 0, "estimated", None, 0.0
        )  # stands if we are cancelled
        try:
            answer = await self.inner.complete(request)
            fault = _fault(answer)
            error = None if fault is None else type(fault).__name__
            price = price_of(self._purse.prices, request.model, answer.input_tokens, answer.output_tokens)
            record = CallRecord(
                answer, error, answer.input_tokens, answer.output_tokens, answer.usage_source, price, 0.0
            )
        except TransientLLMError as failure:
            lost = worst if failure.maybe_billed else 0
            record = CallRecord(None, type(failure).__name__, lost, 0, "estimated", None, 0.0)
            raise
        except (BadAnswerError, LLMUnavailableError) as failure:
            record = CallRecord(None, type(failure).__name__, 0, 0, "estimated", None, 0.0)
            raise
        finally:
            seconds = time.perf_counter() - started
            self._purse.settle(request.model, worst, record)
            self._ledger.settle(call_id, replace(record, seconds=seconds))
        if fault is not None:
            raise fault
        return answer


class _Purse:
    """What is left of a budget: spent, plus the worst case of everything under way, never exceeds it."""

    def __init__(self, budget: Budget, prices: Prices) -> None:
        self.budget = budget
        self.prices = prices
        self.tokens = 0
        self._spent = 0.0
        self._held = 0.0

    def reserve(self, model: str, worst: int) -> None:
        """Hold the worst case of one attempt.

        Raises:
            BudgetExceededError: it does not fit.
            ConfigError: a budget in dollars, and the model has no price.
        """
        need = self._cost(model, worst)
        if self._spent + self._held + need > self.budget.amount:
            left = self.budget.amount - self._spent
            raise BudgetExceededError(
                f"the next call may cost {need:g} {self.budget.unit}, {left:g} of {self.budget.amount:g} are left"
            )
        self._held += need

    def settle(self, model: str, worst: int, record: CallRecord) -> None:
        """Give back what was held and take what was spent."""
        self._held -= self._cost(model, worst)
        tokens = record.input_tokens + record.output_tokens
        self.tokens += tokens
        match self.budget.unit:
            case "calls":
                self._spent += 1
            case "dollars":
                self._spent += record.price if record.price is not None else self._cost(model, tokens)
            case _:
                self._spent += tokens

    def _cost(self, model: str, tokens: int) -> float:
        match self.budget.unit:
            case "calls":
                return 1
            case "dollars":
                # All tokens at the dearer of the two prices: never less than the bill.
                dearest = [price_of(self.prices, model, tokens, 0), price_of(self.prices, model, 0, tokens)]
                known = [price for price in dearest if price is not None]
                if not known:
                    raise ConfigError(
                        f"a budget in dollars needs a price of {model}; name a table with --prices"
                    )
                return max(known)
            case _:
                return tokens


def _fault(answer: LLMAnswer) -> BadAnswerError | None:
    """What is wrong with an answer, before anyone parses it."""
    if answer.finish == "content_filter":
        return RefusedAnswerError("the endpoint's filter withheld the answer")
    if answer.finish == "length":
        return TruncatedAnswerError(f"the answer was cut after {answer.output_tokens} tokens")
    if not answer.text.strip():
        return UnparsableAnswerError("the answer is empty")
    return None


def _wait(attempt: int, retry_after: float | None) -> float:
    """Seconds before the next attempt: what the endpoint asks, else doubling, with jitter."""
    backoff = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (attempt - 1)) * random.uniform(0.5, 1.5)
    return backoff if retry_after is None else min(retry_after, 2 * LONGEST_WAIT)

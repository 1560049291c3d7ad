"""A chat client with a cache, a ledger and a budget round it: the only way in which stages ask a model."""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol
from weakref import WeakValueDictionary

from safesail.domain.ids import FeatureId
from safesail.domain.text import text_fault
from safesail.errors import (
    BadAnswerError,
    CacheMissError,
    LLMUnavailableError,
    RefusedAnswerError,
    TransientLLMError,
    TruncatedAnswerError,
    UnparsableAnswerError,
)
from safesail.llm.budget import Budget, Prices, price_of
from safesail.llm.budget_tracker import BudgetTracker, Spent
from safesail.llm.types import Answered, CallContext, ChatClient, LLMAnswer, LLMRequest, UsageSource

MAX_ATTEMPTS = 6
FIRST_WAIT = 0.5
"""Seconds before the second attempt; doubled each time, with jitter."""

LONGEST_WAIT = 60.0
"""Seconds, where the endpoint does not say how long to wait."""

PATIENCE = 600.0
"""Seconds that an endpoint may ask to wait; one that asks for more is down for this run."""

Check = Callable[[str], object]
"""Parses an answer and raises `BadAnswerError` where it cannot."""


@dataclass(frozen=True)
class CallRecord:
    """How one attempt ended, for the ledger."""

    answer: LLMAnswer | None
    """None where there was none."""

    error: str | None
    """Class of the error; None for a good answer, the only kind that is reused."""

    input_tokens: int
    output_tokens: int
    usage_source: UsageSource
    price: float | None
    seconds: float


class Ledger(Protocol):
    """Where calls are kept: the store's table `llm_calls`, handed in by the pipeline."""

    def lookup(self, cache_key: str, *, bad: bool = False) -> LLMAnswer | None:
        """A good answer given before, in any run; or else, where `bad` ones are asked for, the newest bad one."""
        ...

    def discard(self, cache_key: str, error: str) -> None:
        """Good answers to this question are none, for the reason `error`: they are not given again."""
        ...

    def reserve(self, request: LLMRequest, context: CallContext, worst_case: int) -> int:
        """Record, before it is sent, that a call is under way; returns its id."""
        ...

    def settle(self, call_id: int, record: CallRecord) -> None:
        """Record how it ended."""
        ...

    def spent(self) -> Sequence[Spent]:
        """What this run has spent so far; an attempt whose end is not known counts at its worst case."""
        ...


class MeteredClient:
    """Asks a model through the cache, within the budget, and writes every attempt to the ledger.

    What the ledger has of this run already (it was killed, and goes on under its old name) is spent of the budget.
    """

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
        self._tracker = BudgetTracker(budget, prices or {}, ledger.spent())
        self._replay = replay
        self._gate = asyncio.Semaphore(concurrency)
        self._under_way: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.costs: dict[FeatureId | None, float] = defaultdict(float)
        """What was newly spent on each feature, in the budget's unit."""

        self._asked_again: set[str] = set()

    @property
    def endpoint(self) -> str:
        """Of the client inside."""
        return self.inner.endpoint

    @property
    def prices(self) -> Prices:
        """Of models, as far as they are known."""
        return self._tracker.prices

    @property
    def spent_tokens(self) -> int:
        """Tokens that this run newly spent, attempts that failed after being sent included."""
        return self._tracker.tokens

    @property
    def asked_again(self) -> int:
        """Questions sent by those of this budget although an answer was paid for before, which was bad."""
        return len(self._asked_again)

    @property
    def unspent(self) -> float:
        """What is left of the budget, in its unit; endless where it is."""
        return self._tracker.unspent

    @property
    def gap(self) -> float:
        """The most that a call has cost less than must be there before it is sent, in the budget's unit."""
        return self._tracker.gap

    def sharing(self, inner: ChatClient) -> "MeteredClient":
        """Another model through the same ledger and the same budget."""
        budget, prices = self._tracker.budget, self._tracker.prices
        twin = MeteredClient(inner, self._ledger, budget, prices=prices, replay=self._replay)
        twin._tracker, twin._gate, twin._under_way = self._tracker, self._gate, self._under_way
        twin.costs, twin._asked_again = self.costs, self._asked_again
        return twin

    async def ask(self, request: LLMRequest, context: CallContext, check: Check | None = None) -> Answered:
        """Answer from the cache, or else from the model.

        Args:
            request: What is asked.
            context: For the ledger.
            check: Parses the answer, and raises what is wrong with it: such an answer is kept and never reused, nor
                one from the cache.

        Raises:
            BudgetExceededError: the worst case of the call does not fit into what is left; nothing was sent.
            CacheMissError: replay was asked for and the answer is not in the cache.
            BadAnswerError: refused, truncated, empty, or refused by `check`; it is in the ledger.
            LLMUnavailableError: every attempt failed.
        """
        key = request.cache_key()
        lock = self._under_way.setdefault(key, asyncio.Lock())
        async with lock:  # two who ask the same at once share one call
            known = self._ledger.lookup(key)
            fault = None if known is None else _fault(known, check)
            if known is not None and fault is None:
                return Answered(known, cached=True)
            if self._replay:
                return self._replayed(request, context, check)
            if fault is not None:  # kept as good by a version that checked less
                self._ledger.discard(key, type(fault).__name__)
            if self._ledger.lookup(key, bad=True) is not None:
                self._asked_again.add(key)
            async with self._gate:
                return Answered(await self._attempts(request, context, check), cached=False)

    def _replayed(self, request: LLMRequest, context: CallContext, check: Check | None) -> Answered:
        """The bad answer that a run got, which fails again as it did then: replay repeats failures too."""
        known = self._ledger.lookup(request.cache_key(), bad=True)
        if known is None:
            raise CacheMissError(
                f"replay: no cached answer of {request.model} for {context.stage} of {context.feature}"
            )
        if (fault := _fault(known, check)) is not None:
            raise _with_bill(fault, known)
        return Answered(known, cached=True)

    async def _attempts(self, request: LLMRequest, context: CallContext, check: Check | None) -> LLMAnswer:
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                return await self._one(request, context, check)
            except TransientLLMError as error:
                if attempt == MAX_ATTEMPTS:
                    raise LLMUnavailableError(f"{self.endpoint} failed {attempt} times: {error}") from error
                if error.retry_after is not None and error.retry_after > PATIENCE:
                    raise LLMUnavailableError(
                        f"{self.endpoint} asks to wait {error.retry_after:.0f} seconds; try again then"
                    ) from error
                await asyncio.sleep(_wait(attempt, error.retry_after))
        raise AssertionError("the last attempt returns or raises")

    async def _one(self, request: LLMRequest, context: CallContext, check: Check | None) -> LLMAnswer:
        worst = self.inner.worst_case(request)
        number = await self._tracker.reserve(request.model, worst)
        call_id = self._ledger.reserve(request, context, worst)
        started = time.perf_counter()
        record = self._unanswered("Interrupted", request.model, worst)  # stands if we are cancelled
        try:
            answer = await self.inner.complete(request)
            fault = _fault(answer, check)
            record = self._answered(answer, fault, request.model)
        except TransientLLMError as failure:
            lost = worst if failure.maybe_billed else 0
            record = self._unanswered(type(failure).__name__, request.model, lost)
            raise
        except BadAnswerError as failure:
            record = self._unanswered(type(failure).__name__, request.model, failure.tokens)
            raise
        except LLMUnavailableError as failure:
            record = self._unanswered(type(failure).__name__, request.model, 0)
            raise
        finally:
            cost = self._tracker.settle(number, _spent(request.model, record))
            for feature in context.bearers:
                self.costs[feature] += cost / len(context.bearers)
            self._ledger.settle(call_id, replace(record, seconds=time.perf_counter() - started))
        if fault is not None:
            raise _with_bill(fault, answer)
        return answer

    def _answered(self, answer: LLMAnswer, fault: BadAnswerError | None, model: str) -> CallRecord:
        price = price_of(self._tracker.prices, model, answer.input_tokens, answer.output_tokens)
        error = None if fault is None else type(fault).__name__
        return CallRecord(
            answer, error, answer.input_tokens, answer.output_tokens, answer.usage_source, price, 0.0
        )

    def _unanswered(self, error: str, model: str, tokens: int) -> CallRecord:
        return CallRecord(None, error, tokens, 0, "estimated", self._tracker.dearest(model, tokens), 0.0)


def _spent(model: str, record: CallRecord) -> Spent:
    tokens = record.input_tokens + record.output_tokens
    unpriced = tokens if record.price is None else 0
    return Spent(model, 1, tokens, record.price or 0.0, unpriced)


def _fault(answer: LLMAnswer, check: Check | None) -> BadAnswerError | None:
    """What is wrong with an answer, from a model or from the cache."""
    if (fault := text_fault(answer.text)) is not None:
        return UnparsableAnswerError(f"the answer is {fault}")
    if answer.finish == "content_filter":
        return RefusedAnswerError("the endpoint's filter withheld the answer")
    if answer.finish == "length":
        return TruncatedAnswerError(f"the answer was cut after {answer.output_tokens} tokens")
    if not answer.text.strip():
        return UnparsableAnswerError("the answer is empty")
    try:
        if check is not None:
            check(answer.text)
    except BadAnswerError as bad:
        return bad
    return None


def _with_bill(fault: BadAnswerError, answer: LLMAnswer) -> BadAnswerError:
    fault.tokens = answer.tokens
    return fault


def _wait(attempt: int, retry_after: float | None) -> float:
    """Seconds before the next attempt: what the endpoint asks, else doubling; with jitter, never less than asked."""
    if retry_after is not None:
        return retry_after + (random.uniform(0, FIRST_WAIT) if retry_after else 0.0)
    return min(LONGEST_WAIT, FIRST_WAIT * 2 ** (attempt - 1)) * random.uniform(0.5, 1.5)

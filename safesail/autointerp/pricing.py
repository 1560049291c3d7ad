"""A client that answers nothing and prices everything."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from safesail.domain.ids import FeatureId
from safesail.errors import BadAnswerError, ConfigError
from safesail.llm.budget import Budget, Prices, price_of
from safesail.llm.metered import Check
from safesail.llm.types import Answered, CallContext, ChatClient, LLMAnswer, LLMRequest
from safesail.store.calls import answers_to, usage_so_far
from safesail.store.connection import Db

TOKENS_PER_BYTE = 0.25
"""Assumed of a model that the ledger has no answer of."""

SHARE_OF_ROOM = 0.2
"""Of the tokens that an answer may have, how many it is assumed to have, where the ledger has no answer."""

STAND_IN = (
    "words or phrases that have to do with a subject, such as these examples of it, in texts about it, often"
)
"""Takes the place of an explanation that is not written yet: as long as one usually is."""


@dataclass(frozen=True)
class Cost:
    """Calls that are not in the cache."""

    calls: float = 0
    """Of a call that several features share, each has a part."""

    tokens_in: float = 0.0
    tokens_out: float = 0.0
    dollars: float | None = 0.0
    """None where a model has no price."""

    worst_gap: float = 0.0
    """Largest difference of one call between its worst case and what it is expected to cost, in tokens."""

    cached: float = 0
    """Calls that are in the cache, and cost nothing."""

    def __add__(self, other: "Cost") -> "Cost":
        priced = self.dollars is not None and other.dollars is not None
        return Cost(
            self.calls + other.calls,
            self.tokens_in + other.tokens_in,
            self.tokens_out + other.tokens_out,
            (self.dollars or 0.0) + (other.dollars or 0.0) if priced else None,
            max(self.worst_gap, other.worst_gap),
            self.cached + other.cached,
        )

    def share(self, n: int) -> "Cost":
        """One of `n` equal parts; the worst case of a call cannot be shared."""
        dollars = None if self.dollars is None else self.dollars / n
        return Cost(
            self.calls / n, self.tokens_in / n, self.tokens_out / n, dollars, self.worst_gap, self.cached / n
        )

    @property
    def tokens(self) -> float:
        """Prompt and completion together."""
        return self.tokens_in + self.tokens_out


class StandIn(Protocol):
    """Puts texts into the form of an explainer's answer."""

    def __call__(self, texts: Sequence[str], *, several: bool) -> str:
        """`several`: of a prompt about several features, however many are left of them."""
        ...


class PricingClient:
    """Answers nothing and prices everything: a walk that asks it is a dry run.

    What the cache has is answered and free. An explanation that is not written yet has a stand-in of usual length.
    """

    unspent = math.inf
    gap = 0.0
    spent_tokens = 0

    def __init__(self, db: Db, inner: ChatClient, prices: Prices, stand_in: StandIn | None) -> None:
        """`stand_in`: of an explainer; None: a simulator, who has no stand-in."""
        self._db = db
        self.inner = inner
        self._prices = prices
        self._stand_in = stand_in
        self._asked: set[str] = set()
        self.costs: dict[FeatureId | None, float] = defaultdict(float)
        self.expected: dict[FeatureId | None, Cost] = defaultdict(Cost)
        """By feature."""

    @property
    def endpoint(self) -> str:
        """Of the client inside."""
        return self.inner.endpoint

    async def ask(self, request: LLMRequest, context: CallContext, check: Check | None = None) -> Answered:
        """What the cache has; else the price is noted, and there is a stand-in for an explanation only."""
        key = request.cache_key()
        known = answers_to(self._db, [key]).get(key)
        if known is not None and _passes(check, known):
            self._bear(context, Cost(cached=1))
            return Answered(LLMAnswer(known, "stop", 0, 0, "estimated"), cached=True)
        if key in self._asked:
            cost = Cost(cached=1)
        else:
            cost = expected_cost(self._db, self.inner, request, context.stage, self._prices)
        self._bear(context, cost)
        self._asked.add(key)
        if self._stand_in is None:
            raise BadAnswerError("a dry run asks nobody")
        # No two features have the same.
        texts = [f"{STAND_IN} {feature.index}" for feature in context.bearers if feature is not None]
        text = self._stand_in(texts, several=bool(context.shared_by))
        return Answered(LLMAnswer(text, "stop", 0, 0, "estimated"), cached=False)

    def _bear(self, context: CallContext, cost: Cost) -> None:
        for feature in context.bearers:
            self.expected[feature] += cost.share(len(context.bearers))


def expected_cost(db: Db, inner: ChatClient, request: LLMRequest, stage: str, prices: Prices) -> Cost:
    """What one call is expected to cost, by what the ledger has of the model, and by how much it may cost more."""
    worst = inner.worst_case(request)
    usage = usage_so_far(db, request.model, stage)
    n_bytes = len(request.system.encode()) + len(request.prompt.encode())
    rate = TOKENS_PER_BYTE if usage is None else usage.tokens_per_byte
    n_in = min(rate * n_bytes, worst - request.max_tokens)
    if inner.endpoint.startswith("builtin-"):  # it counts by a rule, so what it will bill is known
        n_in = worst - request.max_tokens
    n_out = request.max_tokens * SHARE_OF_ROOM if usage is None else usage.output_tokens
    n_out = min(n_out, request.max_tokens)
    price = price_of(prices, request.model, round(n_in), round(n_out))
    return Cost(1, n_in, n_out, price, worst - n_in - n_out)


def amount(cost: Cost, budget: Budget) -> float:
    """A cost in the budget's unit.

    Raises:
        ConfigError: it is in dollars, and the model has no price.
    """
    match budget.unit:
        case "calls":
            return cost.calls
        case "dollars":
            if cost.dollars is None:
                raise ConfigError("a budget in dollars needs the models' prices; name a table with --prices")
            return cost.dollars
        case _:
            return cost.tokens


def gap(cost: Cost, budget: Budget) -> float:
    """What must be free beyond the expected cost, since a call's worst case is reserved before it is sent."""
    if budget.unit == "calls" or cost.tokens == 0:
        return 0.0
    if budget.unit == "dollars":
        return cost.worst_gap * (cost.dollars or 0.0) / cost.tokens
    return 0.0 if math.isinf(budget.amount) else cost.worst_gap


def _passes(check: Check | None, answer: str) -> bool:
    """Whether a cached answer can be read: one that a changed parser refuses is asked for again."""
    try:
        if check is not None:
            check(answer)
    except BadAnswerError:
        return False
    return True

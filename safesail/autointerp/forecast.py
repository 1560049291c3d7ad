"""What a run would cost and bring, without asking anybody."""

import asyncio
import json
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from safesail.autointerp.clients import ChatPair, ChatSettings
from safesail.autointerp.config import AutointerpConfig
from safesail.autointerp.explainer import STAGE as EXPLAIN
from safesail.autointerp.loop import Plan, Walk
from safesail.autointerp.simulator import STAGE as SIMULATE
from safesail.domain.ids import FeatureId
from safesail.errors import BadAnswerError, ConfigError
from safesail.llm.budget import Budget, Prices, price_of
from safesail.llm.metered import Check
from safesail.llm.types import Answered, CallContext, ChatClient, LLMAnswer, LLMRequest
from safesail.store.calls import answers_to, usage_so_far
from safesail.store.connection import Db
from safesail.store.explanations import read_scores

TOKENS_PER_BYTE = 0.25
"""Assumed of a model that the ledger has no answer of."""

SHARE_OF_ROOM = 0.2
"""Of the tokens that an answer may have, how many it is assumed to have, where the ledger has no answer."""

_STAND_IN = (
    "words or phrases that have to do with a subject, such as these examples of it, in texts about it, often"
)
"""Takes the place of an explanation that is not written yet: as long as one usually is."""


@dataclass(frozen=True)
class Cost:
    """Calls that are not in the cache."""

    calls: int = 0
    tokens_in: float = 0.0
    tokens_out: float = 0.0
    dollars: float | None = 0.0
    """None where a model has no price."""

    worst_gap: float = 0.0
    """Largest difference of one call between its worst case and what it is expected to cost, in tokens."""

    cached: int = 0
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

    @property
    def tokens(self) -> float:
        """Prompt and completion together."""
        return self.tokens_in + self.tokens_out


@dataclass(frozen=True)
class Forecast:
    """What a budget is expected to buy."""

    sae_id: str
    features: int
    """Features that would be explained and scored without a budget."""

    finished: int
    """Features that the budget is expected to finish."""

    cost: Cost
    """Of those."""

    cost_of_all: Cost
    above_chance: float | None
    """How many of those are expected to score above chance, by the share of the store's earlier scores."""

    basis: str
    """What the figures rest on."""

    def as_json(self) -> dict[str, Any]:
        """The figures, by name."""
        return {
            "sae_id": self.sae_id,
            "features": self.features,
            "finished": self.finished,
            "calls": self.cost.calls,
            "cached_calls": self.cost.cached,
            "tokens": round(self.cost.tokens),
            "dollars": self.cost.dollars,
            "tokens_for_all": round(self.cost_of_all.tokens),
            "dollars_for_all": self.cost_of_all.dollars,
            "above_chance": self.above_chance,
            "basis": self.basis,
        }

    def as_text(self) -> str:
        """For people."""
        above = (
            "no earlier scores say how many of them would be above chance"
            if self.above_chance is None
            else f"about {self.above_chance:.0f} of them above chance"
        )
        return (
            f"{self.sae_id}: the budget finishes about {self.finished} of {self.features} features, {above}\n"
            f"expected: {self.cost.tokens:,.0f} new tokens{_in_dollars(self.cost)} in {self.cost.calls:,} calls "
            f"({self.cost.cached:,} more are cached); all {self.features}: "
            f"{self.cost_of_all.tokens:,.0f} tokens{_in_dollars(self.cost_of_all)}\n"
            f"{self.basis}; nothing was asked"
        )


class PricingClient:
    """Answers nothing and prices everything: a walk that asks it is a dry run.

    What the cache has is answered and free. An explanation that is not written yet has a stand-in of usual length.
    """

    unspent = math.inf
    gap = 0.0
    spent_tokens = 0

    def __init__(self, db: Db, inner: ChatClient, prices: Prices, stand_in: Callable[[str], str]) -> None:
        """`stand_in` puts a text into the form of an explainer's answer."""
        self._db = db
        self._inner = inner
        self._prices = prices
        self._stand_in = stand_in
        self._asked: set[str] = set()
        self.costs: dict[FeatureId | None, float] = defaultdict(float)
        self.expected: dict[FeatureId | None, Cost] = defaultdict(Cost)
        """By feature."""

    @property
    def endpoint(self) -> str:
        """Of the client inside."""
        return self._inner.endpoint

    async def ask(self, request: LLMRequest, context: CallContext, check: Check | None = None) -> Answered:
        """What the cache has; else the price is noted, and there is a stand-in for an explanation only."""
        key = request.cache_key()
        known = answers_to(self._db, [key]).get(key)
        if known is not None and _passes(check, known):
            self.expected[context.feature] += Cost(cached=1)
            return Answered(LLMAnswer(known, "stop", 0, 0, "estimated"), cached=True)
        self.expected[context.feature] += (
            Cost(cached=1) if key in self._asked else self._price(request, context.stage)
        )
        self._asked.add(key)
        if context.stage != EXPLAIN or context.feature is None:
            raise BadAnswerError("a dry run asks nobody")
        text = self._stand_in(f"{_STAND_IN} {context.feature.index}")  # no two features have the same
        return Answered(LLMAnswer(text, "stop", 0, 0, "estimated"), cached=False)

    def _price(self, request: LLMRequest, stage: str) -> Cost:
        worst = self._inner.worst_case(request)
        usage = usage_so_far(self._db, request.model, stage)
        n_bytes = len(request.system.encode()) + len(request.prompt.encode())
        rate = TOKENS_PER_BYTE if usage is None else usage.tokens_per_byte
        n_in = min(rate * n_bytes, worst - request.max_tokens)
        n_out = request.max_tokens * SHARE_OF_ROOM if usage is None else usage.output_tokens
        n_out = min(n_out, request.max_tokens)
        price = price_of(self._prices, request.model, round(n_in), round(n_out))
        return Cost(1, n_in, n_out, price, worst - n_in - n_out)


def forecast(db: Db, plan: Plan, chat: ChatSettings, config: AutointerpConfig) -> Forecast:
    """Expect what a budget buys of a plan's features, the first one first; asks nobody and writes nothing.

    Raises:
        ConfigError: a budget in dollars, and a model has no price.
    """
    settings, budget = chat.named_in(config), chat.budget

    def stand_in(text: str) -> str:
        return json.dumps({"explanation": text}) if settings.explain.answer == "json" else text

    explainer, simulator = (PricingClient(db, model, chat.prices or {}, stand_in) for model in chat.models())
    walk = Walk(db, ChatPair(explainer, simulator, budget), settings, None)
    asyncio.run(walk.run(plan, quiet=True))
    costs = [explainer.expected[feature] + simulator.expected[feature] for feature in plan.features]
    finished, spent = 0, Cost()
    for cost in costs:
        if _amount(spent + cost, budget) + _gap(cost, budget) > budget.amount:
            break
        finished, spent = finished + 1, spent + cost
    above = _above_chance(db, plan.sae_id, settings, f"{settings.scoring.model} @ {simulator.endpoint}")
    return Forecast(
        plan.sae_id,
        len(plan.features),
        finished,
        spent,
        sum(costs, Cost()),
        None if above is None else finished * above,
        _basis(db, settings),
    )


def _passes(check: Check | None, answer: str) -> bool:
    """Whether a cached answer can be read: one that a changed parser refuses is asked for again."""
    try:
        if check is not None:
            check(answer)
    except BadAnswerError:
        return False
    return True


def _above_chance(db: Db, sae_id: str, config: AutointerpConfig, simulator: str) -> float | None:
    """Share of earlier scores by this method and simulator whose interval lies above their chance line."""
    judged = [
        s.low > s.chance
        for s in read_scores(db, sae_id, method=config.scoring.label, simulator=simulator)
        if s.low is not None and s.chance is not None
    ]
    return sum(judged) / len(judged) if judged else None


def _basis(db: Db, config: AutointerpConfig) -> str:
    models = {EXPLAIN: config.explain.model, SIMULATE: config.scoring.model}
    usages = {stage: usage_so_far(db, model, stage) for stage, model in models.items()}
    known = [f"{stage}: {u.answers:,} earlier answers" for stage, u in usages.items() if u is not None]
    unknown = [stage for stage, u in usages.items() if u is None]
    if unknown:
        known.append(
            f"{' and '.join(unknown)}: no earlier answers, so {TOKENS_PER_BYTE} tokens per byte and "
            f"{SHARE_OF_ROOM:.0%} of the answer's room"
        )
    return f"an estimate ({'; '.join(known)})"


def _amount(cost: Cost, budget: Budget) -> float:
    """In the budget's unit."""
    match budget.unit:
        case "calls":
            return cost.calls
        case "dollars":
            if cost.dollars is None:
                raise ConfigError("a budget in dollars needs the models' prices; name a table with --prices")
            return cost.dollars
        case _:
            return cost.tokens


def _gap(cost: Cost, budget: Budget) -> float:
    """What must be free beyond the expected cost, since a call's worst case is reserved before it is sent."""
    if budget.unit == "calls" or cost.tokens == 0:
        return 0.0
    if budget.unit == "dollars":
        return cost.worst_gap * (cost.dollars or 0.0) / cost.tokens
    return 0.0 if math.isinf(budget.amount) else cost.worst_gap


def _in_dollars(cost: Cost) -> str:
    return "" if cost.dollars is None else f" (${cost.dollars:,.4f})"

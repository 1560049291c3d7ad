"""What a run would cost and bring, without asking anybody."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from safesail.autointerp import explainer as explaining
from safesail.autointerp.budgeted import BudgetedConfig, Plan
from safesail.autointerp.exemplars import collect
from safesail.autointerp.scoring_config import ScoringConfig
from safesail.autointerp.simulator import STAGE, batches_of, make_request
from safesail.autointerp.units import units_of
from safesail.domain.ids import FeatureId
from safesail.domain.records import Exemplar
from safesail.errors import BadAnswerError, ConfigError
from safesail.llm.budget import Budget, Prices, price_of
from safesail.llm.types import ChatClient, LLMRequest
from safesail.store.calls import answers_to, usage_so_far
from safesail.store.connection import Db
from safesail.store.exemplars import find_feature
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


class Forecaster:
    """Builds the calls that a run would make, and looks up which of them are answered already."""

    def __init__(
        self, db: Db, models: tuple[ChatClient, ChatClient], config: BudgetedConfig, prices: Prices
    ) -> None:
        self._db = db
        self._explaining, self._simulating = models
        self._config = config
        self._prices = prices
        self._usage = {
            stage: usage_so_far(db, model, stage)
            for stage, model in ((explaining.STAGE, config.explain.model), (STAGE, config.scoring.model))
        }

    def forecast(self, sae_id: str, plan: Plan, budget: Budget) -> Forecast:
        """Expect what `budget` buys of a plan's features, the first one first.

        Raises:
            ConfigError: a budget in dollars, and a model has no price.
        """
        features = plan.features
        costs = [self._feature(number, feature, plan) for number, feature in enumerate(features)]
        finished, spent = 0, Cost()
        for cost in costs:
            if _amount(spent + cost, budget) + _gap(cost, budget) > budget.amount:
                break
            finished, spent = finished + 1, spent + cost
        return Forecast(
            sae_id,
            len(features),
            finished,
            spent,
            sum(costs, Cost()),
            self._above_chance(sae_id, finished),
            self._basis(),
        )

    def _feature(self, number: int, feature: FeatureId, plan: Plan) -> Cost:
        config = self._config
        first = plan.shared.get(feature, feature)
        request = self._request(first, plan.hints.get(first))
        if request is None:
            return Cost()  # it fails without a call
        text, cost = self._explanation(request)
        if first != feature:
            cost = Cost()  # paid for with the feature that it is nearly the same as
        held_out = collect(self._db, feature, "test", config.held_out)
        requests = list(_simulations(self._simulating.endpoint, text, held_out, config.scoring))
        simulation = sum((self._call(r, self._simulating, STAGE) for r in requests), Cost())
        # The chance line asks the same of another explanation.
        every = config.chance_every
        twice = every > 0 and number > 0 and number % every == 0
        return cost + simulation + simulation if twice else cost + simulation

    def _request(self, feature: FeatureId, hint: str | None) -> LLMRequest | None:
        """What would be asked about a feature; None where it never fires in a window that may be shown."""
        shown = collect(self._db, feature, "train", self._config.shown)
        q999 = find_feature(self._db, feature).q999
        active = [e for e in shown if e.kind == "active"]
        if not active or q999 is None:
            return None
        silent = [e for e in shown if e.kind != "active"]
        endpoint = self._explaining.endpoint
        return explaining.make_request(endpoint, active, silent, self._config.explain, q999=q999, hint=hint)

    def _explanation(self, request: LLMRequest) -> tuple[str, Cost]:
        """The explanation as the cache has it, or a text of usual length in its place; and what it would cost."""
        cost = self._call(request, self._explaining, explaining.STAGE)
        known = answers_to(self._db, [request.cache_key()]).get(request.cache_key())
        if known is None:
            return _STAND_IN, cost
        try:
            return explaining.read_answer(known, self._config.explain).text, cost
        except BadAnswerError:  # a parser that has changed since: it will be asked again
            return _STAND_IN, cost

    def _call(self, request: LLMRequest, client: ChatClient, stage: str) -> Cost:
        key = request.cache_key()
        if key in answers_to(self._db, [key]):
            return Cost(cached=1)
        worst = client.worst_case(request)
        usage = self._usage[stage]
        n_bytes = len(request.system.encode()) + len(request.prompt.encode())
        rate = TOKENS_PER_BYTE if usage is None else usage.tokens_per_byte
        n_in = min(rate * n_bytes, worst - request.max_tokens)
        n_out = request.max_tokens * SHARE_OF_ROOM if usage is None else usage.output_tokens
        n_out = min(n_out, request.max_tokens)
        price = price_of(self._prices, request.model, round(n_in), round(n_out))
        return Cost(1, n_in, n_out, price, worst - n_in - n_out)

    def _above_chance(self, sae_id: str, finished: int) -> float | None:
        """By the share of earlier scores of this method whose interval lies above their chance line."""
        judged = [
            s.low > s.chance
            for s in read_scores(self._db, sae_id, method=self._config.scoring.label)
            if s.low is not None and s.chance is not None
        ]
        return finished * sum(judged) / len(judged) if judged else None

    def _basis(self) -> str:
        known = [
            f"{stage}: {u.answers:,} earlier answers" for stage, u in self._usage.items() if u is not None
        ]
        unknown = [stage for stage, u in self._usage.items() if u is None]
        if unknown:
            known.append(
                f"{' and '.join(unknown)}: no earlier answers, so {TOKENS_PER_BYTE} tokens a byte and "
                f"{SHARE_OF_ROOM:.0%} of the answer's room"
            )
        return f"an estimate ({'; '.join(known)})"


def _simulations(
    endpoint: str, text: str, windows: Sequence[Exemplar], config: ScoringConfig
) -> Iterator[LLMRequest]:
    for batch in batches_of(windows, config.calls_windows):
        yield make_request(endpoint, text, units_of(batch, config), config)


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
    """What must be free beyond the expected cost, since a call's worst case is held before it is sent."""
    if budget.unit == "calls" or cost.tokens == 0:
        return 0.0
    if budget.unit == "dollars":
        return cost.worst_gap * (cost.dollars or 0.0) / cost.tokens
    return 0.0 if math.isinf(budget.amount) else cost.worst_gap


def _in_dollars(cost: Cost) -> str:
    return "" if cost.dollars is None else f" (${cost.dollars:,.4f})"

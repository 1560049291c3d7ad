"""What a run would cost and bring, without asking anybody."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from safesail.autointerp.clients import ChatPair, ChatSettings
from safesail.autointerp.config import AutointerpConfig
from safesail.autointerp.explainer import STAGE as EXPLAIN
from safesail.autointerp.loop import Plan
from safesail.autointerp.pooled import make_walk
from safesail.autointerp.pricing import SHARE_OF_ROOM, TOKENS_PER_BYTE, Cost, PricingClient, amount, gap
from safesail.autointerp.simulator import STAGE as SIMULATE
from safesail.store.calls import usage_so_far
from safesail.store.connection import Db
from safesail.store.explanations import read_scores
from safesail.waiting import wait_for


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
            "calls": round(self.cost.calls),
            "cached_calls": round(self.cost.cached),
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
            f"expected: {self.cost.tokens:,.0f} new tokens{_in_dollars(self.cost)} in {self.cost.calls:,.0f} calls "
            f"({self.cost.cached:,.0f} more are cached); all {self.features}: "
            f"{self.cost_of_all.tokens:,.0f} tokens{_in_dollars(self.cost_of_all)}\n"
            f"{self.basis}; nothing was asked"
        )


def forecast(db: Db, plan: Plan, chat: ChatSettings, config: AutointerpConfig) -> Forecast:
    """Expect what a budget buys of a plan's features, the first one first; asks nobody and writes nothing.

    Raises:
        ConfigError: a budget in dollars, and a model has no price.
    """
    settings, budget = chat.named_in(config), chat.budget

    def stand_in(texts: Sequence[str], *, several: bool) -> str:
        items = [{"explanation": text} for text in texts]
        if several:
            return json.dumps({str(number): item for number, item in enumerate(items, 1)})
        return json.dumps(items[0]) if settings.explain.answer == "json" else texts[0]

    models, prices = chat.models(asked=False), chat.prices or {}
    explainer, simulator = (
        PricingClient(db, models[0], prices, stand_in),
        PricingClient(db, models[1], prices, None),
    )
    walk = make_walk(db, ChatPair(explainer, simulator, budget), settings, None)
    wait_for(walk.run(plan, quiet=True))
    costs = [explainer.expected[feature] + simulator.expected[feature] for feature in plan.features]
    finished, spent = 0, Cost()
    for cost in costs:
        if amount(spent + cost, budget) + gap(cost, budget) > budget.amount:
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


def _in_dollars(cost: Cost) -> str:
    return "" if cost.dollars is None else f" (${cost.dollars:,.4f})"

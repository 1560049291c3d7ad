"""The walk over features that are scored together: some are explained, scored in groups, then the next ones.

First every feature gets its first rounds, in order of value; what is left of the budget then makes scores more
certain, those that need it most first. So a stop at any moment leaves a catalog of finished features.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence

from tqdm import tqdm

from safesail.autointerp.clients import ChatPair
from safesail.autointerp.config import AutointerpConfig
from safesail.autointerp.explainer import (
    STAGE,
    Shown,
    explain,
    explain_several,
    make_request,
    make_several,
)
from safesail.autointerp.intruder import IntruderTest, intruder_origin
from safesail.autointerp.loop import Plan, Walk
from safesail.autointerp.pool_scorer import PoolScorer
from safesail.autointerp.pricing import amount, expected_cost
from safesail.autointerp.report import RunReport
from safesail.domain.ids import FeatureId
from safesail.domain.records import Explanation, Failed, Score
from safesail.errors import BudgetExceededError, CacheMissError, ConfigError
from safesail.llm.metered import MeteredClient
from safesail.store.connection import Db
from safesail.store.explanations import ScoreOrigin

_GROUPS_AT_ONCE = 2
"""Groups of features that are explained before the first of them is scored: drawn anew, they mix."""


Numbered = tuple[int, FeatureId]
"""A feature, and where it stands in the plan."""


def make_walk(db: Db, clients: ChatPair, config: AutointerpConfig, origin: ScoreOrigin | None) -> Walk:
    """The walk of a way of scoring; `origin`: of the scores; None: nothing is written.

    Raises:
        ConfigError: intruder detection is to go first, and scoring is not pooled.
    """
    if config.first is not None and config.scoring.method != "pooled":
        raise ConfigError(
            f"{config.first} detection goes first with pooled scoring only, not {config.scoring.method}"
        )
    return (PooledWalk if config.scoring.method == "pooled" else Walk)(db, clients, config, origin)


class PooledWalk(Walk):
    """Explains features in order and scores them in groups until they or the budget are used up."""

    def __init__(
        self, db: Db, clients: ChatPair, config: AutointerpConfig, origin: ScoreOrigin | None
    ) -> None:
        """`origin`: of the scores; None: nothing is written."""
        super().__init__(db, clients, config, origin)
        self._missing: CacheMissError | None = None
        self._intruders: IntruderTest | None = None
        self._scores: dict[FeatureId, Score] = {}
        self._ready: Mapping[FeatureId, Shown | Failed] = {}
        """What is shown of the features of the batch that is explained."""

        self._explaining: list[float] = []
        """What each explanation newly cost, in the budget's unit."""

        self._estimate: float | None = None
        """What one is expected to cost, as long as none was paid for."""

    async def run(self, plan: Plan, *, quiet: bool) -> RunReport:
        """Explain and score the features of `plan`, the first one first.

        Raises:
            LLMUnavailableError: an endpoint is dead; what is finished is stored.
            CacheMissError: replay was asked for and an answer is not in the cache; what there is was scored.
        """
        self._start(plan)
        self._scorer = PoolScorer(self._db, self._clients.simulator, self._config, plan.sae_id, self._origin)
        if self._config.first is not None:
            self._intruders = IntruderTest(
                self._db, self._clients.simulator, self._config, plan.sae_id, self._intruder_origin(plan)
            )
        pool = self._config.scoring.pool
        explained: list[Explanation] = []
        waiting = list(enumerate(plan.features))
        with tqdm(desc="explain+score", total=len(plan.features), unit="feature", disable=quiet) as bar:
            while waiting and not self._stopped and self._missing is None:
                left = len(waiting)
                batch, waiting = await self._next(waiting)
                admitted = await self._admit(batch)
                explained += admitted
                await self._score(admitted, pool.min_rounds)
                bar.update(left - len(waiting))
            await self._score(explained, pool.max_rounds)
        self._count(plan)
        if self._missing is not None:
            raise self._missing
        return self._report

    def _intruder_origin(self, plan: Plan) -> ScoreOrigin | None:
        if self._origin is None:
            return None
        return intruder_origin(self._db, self._origin.run_id, plan.sae_id, self._config)

    async def _next(self, waiting: list[Numbered]) -> tuple[list[Numbered], list[Numbered]]:
        """Features that come next, as many as share prompts, and those that wait on.

        Where intruder detection goes first, features are tested until as many pass; none more is tested than the
        rest of the budget could explain and score.
        """
        size = _GROUPS_AT_ONCE * self._config.scoring.pool.features
        if self._intruders is None:
            return waiting[:size], waiting[size:]
        batch: list[Numbered] = []
        while waiting and not self._stopped and self._missing is None:
            n = min(size, max(1, self._room(waiting, len(batch))[0] + len(batch))) - len(batch)
            if n <= 0:
                break
            batch += await self._passing(waiting[:n])
            waiting = waiting[n:]
        return batch, waiting

    async def _passing(self, batch: Sequence[Numbered]) -> list[Numbered]:
        """Of a batch those that do not fail intruder detection, where it goes first; the others are left out."""
        if self._intruders is None or self._stopped:
            return list(batch)
        asked = [feature for _, feature in batch if feature not in self._plan.known]
        try:
            tested = await self._intruders.test(asked, decide=True)
        except CacheMissError as error:
            self._missing = error
            return []
        self._intruders.scores(asked)
        self._report.stopped_by = self._report.stopped_by or self._intruders.stopped_by
        failed = {f for f, of in tested.items() if of.verdict(self._config.intruder) is False}
        self._report.left_out += [feature for feature in asked if feature in failed]
        for number, feature in batch:
            if feature in failed:
                self._settle(number, None)
        return [(number, feature) for number, feature in batch if feature not in failed]

    @property
    def _stopped(self) -> bool:
        return self._report.stopped_by is not None

    async def _score(self, explanations: Sequence[Explanation], rounds: int) -> None:
        if not explanations or self._scorer.stopped_by is not None:
            return
        for score in await self._scorer.score(explanations, rounds):
            self._scores[score.feature] = score
        self._report.stopped_by = self._report.stopped_by or self._scorer.stopped_by

    async def _admit(self, batch: Sequence[Numbered]) -> list[Explanation]:
        """Explain as many of `batch`, in order, as the budget is likely to finish."""
        admitted: list[Explanation] = []
        waiting = list(batch)
        self._ready = self._show_all([f for _, f in batch if self._is_asked(f)])
        while waiting and self._missing is None and not self._stopped:
            n = self._affordable(waiting, len(admitted))
            if n == 0:
                break
            chunk, waiting = waiting[:n], waiting[n:]
            size = self._config.explain.call_features
            calls = [chunk[start : start + size] for start in range(0, n, size)]
            for explained in await asyncio.gather(*map(self._explanations_of, calls)):
                admitted += explained
        return admitted

    def _is_asked(self, feature: FeatureId) -> bool:
        """Whether its explanation is neither known nor that of another feature."""
        return feature not in self._plan.known and feature not in self._plan.shared

    async def _explanations_of(self, items: Sequence[Numbered]) -> list[Explanation]:
        """Explanations of some features, known or asked for in one call, as far as there are any."""
        explained: dict[FeatureId, Explanation | None] = {}
        try:
            explained |= {f: self._plan.known[f] for _, f in items if f in self._plan.known}
            asked = [f for _, f in items if self._is_asked(f)]
            outcomes = await self._ask_several(asked)
            explained |= {outcome.feature: self._keep(outcome) for outcome in outcomes}
        except BudgetExceededError as error:
            self._report.stopped_by = str(error)
        except CacheMissError as error:
            self._missing = error
        numbers = {feature: number for number, feature in items}
        for feature in explained:
            self._settle(numbers[feature], explained[feature])
        for number, feature in items:
            if feature in self._plan.shared and not self._stopped and self._missing is None:
                explained[feature] = await self._explain(feature)
            self._settle(number, explained.get(feature))
            self._explaining.append(self._clients.explainer.costs[feature])
        return [e for _, f in items if (e := explained.get(f)) is not None]

    async def _ask_several(self, features: Sequence[FeatureId]) -> list[Explanation | Failed]:
        shown = [self._ready.get(feature) or self._shown(feature) for feature in features]
        failed = [of for of in shown if isinstance(of, Failed)]
        fit = [of for of in shown if isinstance(of, Shown)]
        if not fit:
            return [*failed]
        client, config = self._clients.explainer, self._config.explain
        if not config.several:
            (of,) = fit
            return [
                *failed,
                await explain(client, of.feature, of.windows, config, q999=of.q999, hint=of.hint),
            ]
        try:
            return [*failed, *await explain_several(client, fit, config)]
        except BudgetExceededError:
            if len(fit) == 1:
                raise
        return await self._ask_halves(features)

    async def _ask_halves(self, features: Sequence[FeatureId]) -> list[Explanation | Failed]:
        """Ask about fewer features at once, as long as the budget pays for that; what was paid for is kept."""
        outcomes: list[Explanation | Failed] = []
        middle = len(features) // 2
        for half in (features[:middle], features[middle:]):
            try:
                outcomes += await self._ask_several(half)
            except BudgetExceededError as error:
                self._report.stopped_by = str(error)
                break
        return outcomes

    def _room(self, waiting: Sequence[Numbered], unscored: int) -> tuple[int, float, float]:
        """How many more features the budget is likely to explain and score, what one costs, and what is in reserve."""
        client = self._clients.simulator
        if math.isinf(client.unspent):
            return len(waiting), 0.0, 0.0
        paid = [cost for cost in self._explaining if cost > 0]
        if not paid and self._estimate is None:
            self._estimate = self._expected_explaining(waiting)
        explaining = sum(paid) / len(paid) if paid else self._estimate or 0.0
        part, reserve = self._scorer.expected([feature for _, feature in waiting], self._clients.budget)
        scoring = part * self._config.scoring.pool.min_rounds
        reserve = max(reserve, client.gap)
        left = client.unspent - reserve - unscored * scoring
        return max(0, int(left / max(explaining + scoring, 1e-9))), explaining + scoring, reserve

    def _affordable(self, waiting: Sequence[Numbered], unscored: int) -> int:
        """How many more features may be explained now, so that all that are explained can be scored too.

        Until one was explained, they go one by one: what the first one costs is not known.
        """
        client, at_once = self._clients.simulator, self._config.concurrency
        if math.isinf(client.unspent):
            return min(len(waiting), at_once * self._config.explain.call_features)
        n, each, reserve = self._room(waiting, unscored)
        paid = any(cost > 0 for cost in self._explaining)
        size = self._config.explain.call_features
        # Whole calls only: a call about fewer features would be another question when the run goes on. Unless the
        # budget is too small for one: a few features are better than none.
        whole = min(n, len(waiting)) if n >= len(waiting) or not self._explaining else n - n % size
        if whole < 1 and not self._stopped:
            written = self._clients.budget.written
            self._report.stopped_by = (
                f"{written(client.unspent)} are left; a feature costs about {written(each)}, and"
                f" {written(reserve)} are kept in reserve for the worst case of a call"
            )
            return 0
        return min(whole, size * (at_once if paid or self._plan.known else 1))

    def _expected_explaining(self, waiting: Sequence[Numbered]) -> float:
        """What the first explanation is expected to cost, in the budget's unit, before any was paid for."""
        config, client = self._config.explain, self._clients.explainer
        asked = [f for _, f in waiting if self._is_asked(f)]
        shown = [of for f in asked[: config.call_features] if isinstance(of := self._shown(f), Shown)]
        if not shown or not isinstance(client, MeteredClient):
            return 0.0
        if config.several:
            request = make_several(client.endpoint, shown, config)
        else:
            request = make_request(client.endpoint, shown[0].windows, config, q999=shown[0].q999)
        cost = expected_cost(self._db, client.inner, request, STAGE, client.prices)
        return amount(cost, self._clients.budget) / (len(shown) if config.several else 1)

    def _count(self, plan: Plan) -> None:
        for score in self._scores.values():
            self._count_score(score)
        costs = self._clients.simulator.costs
        self._report.paid = [f for f in plan.features if costs.get(f, 0.0) > 0]
        done = {*self._scores, *self._report.failed, *self._report.left_out}
        self._report.left = len(set(plan.features) - done)
        self._report.tokens = self._clients.simulator.spent_tokens

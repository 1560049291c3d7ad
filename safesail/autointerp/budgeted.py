"""Explaining and scoring under one budget, feature by feature, so that a stop at any moment leaves a catalog."""

import asyncio
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tqdm import tqdm

from safesail.autointerp.exemplars import ExemplarConfig, collect
from safesail.autointerp.explain_config import ExplainConfig
from safesail.autointerp.explainer import Explainer
from safesail.autointerp.near_duplicates import NearDuplicatesConfig
from safesail.autointerp.ranking import OrderConfig
from safesail.autointerp.score_feature import score_feature
from safesail.autointerp.scoring_config import ScoringConfig
from safesail.domain.config import Config
from safesail.domain.ids import FeatureId
from safesail.domain.records import Exemplar, Explanation, Failed, Score
from safesail.errors import BudgetExceededError
from safesail.llm.metered import MeteredClient
from safesail.store.connection import Db
from safesail.store.exemplars import find_feature
from safesail.store.explanations import record_explanation, record_score


class BudgetedConfig(Config):
    """How features are explained and scored."""

    explain: ExplainConfig = ExplainConfig()
    scoring: ScoringConfig = ScoringConfig()
    shown: ExemplarConfig = ExemplarConfig()
    """Windows of the `train` split that the explainer sees."""

    held_out: ExemplarConfig = ExemplarConfig()
    """Windows of the `test` split that the score is computed on."""

    chance_every: int = 1
    """The chance line is measured on every n-th feature; 0: on none. It doubles the cost of a score."""

    order: OrderConfig = OrderConfig()
    """Which features come first."""

    alike: NearDuplicatesConfig = NearDuplicatesConfig()
    """Which features share one explanation."""

    tell_concept: bool = False
    """Tell the explainer which concept nominated the feature; it may then find what it was told."""

    concurrency: int = 8
    """Features under way at once."""


@dataclass(frozen=True)
class Plan:
    """What is to be explained and scored."""

    features: Sequence[FeatureId]
    """The most valuable first."""

    shared: Mapping[FeatureId, FeatureId] = field(default_factory=dict[FeatureId, FeatureId])
    """Features that take the explanation of an earlier one."""

    hints: Mapping[FeatureId, str] = field(default_factory=dict[FeatureId, str])
    """What the explainer is told beforehand."""


@dataclass
class RunResult:
    """What a run got for its tokens, counted as it goes."""

    explained: list[FeatureId] = field(default_factory=list)
    scored: list[FeatureId] = field(default_factory=list)
    undefined: list[FeatureId] = field(default_factory=list)
    failed: list[FeatureId] = field(default_factory=list)
    shared: list[FeatureId] = field(default_factory=list)
    """Explained ones that took the explanation of a feature they are nearly the same as."""

    stopped_by_budget: bool = False
    left: int = 0
    """Features that were not reached."""

    @property
    def reached(self) -> tuple[FeatureId, ...]:
        """Features that were explained, whatever came of their scores."""
        return tuple(self.explained)


class BudgetedRun:
    """Explains and scores features in the order given until they or the budget are used up."""

    def __init__(
        self, db: Db, explainer: MeteredClient, simulator: MeteredClient, config: BudgetedConfig
    ) -> None:
        self._db = db
        self._simulator = simulator
        self._config = config
        self._explainer = Explainer(explainer, config.explain)
        self._plan = Plan(())
        self._explanations: list[asyncio.Future[Explanation | None]] = []
        self._bought = RunResult()
        self._begun: set[FeatureId] = set()
        self._ended: list[FeatureId] = []
        self._changed = asyncio.Event()

    async def run(self, plan: Plan, *, quiet: bool) -> RunResult:
        """Explain and score the features of `plan`, the first one first.

        Raises:
            LLMUnavailableError: an endpoint is dead; what is finished is stored.
        """
        loop, features = asyncio.get_running_loop(), plan.features
        self._plan = plan
        self._explanations = [loop.create_future() for _ in features]
        waiting = list(reversed(list(enumerate(features))))
        with tqdm(desc="explain+score", total=len(features), unit="feature", disable=quiet) as bar:

            async def work() -> None:
                while await self._may_begin(waiting):
                    number, feature = waiting.pop()
                    self._begun.add(feature)
                    try:
                        await self._one(number, feature)
                    except BudgetExceededError:
                        self._bought.stopped_by_budget = True
                        self._bought.left += 1
                        return
                    finally:
                        self._settle(number, None)
                        self._end(feature)
                    bar.update()

            async with asyncio.TaskGroup() as group:
                for _ in range(self._config.concurrency):
                    group.create_task(work())
        self._bought.left += len(waiting)
        return self._bought

    async def _may_begin(self, waiting: Sequence[object]) -> bool:
        """Whether another feature may begin; waits while the money may be needed to finish those under way.

        Money goes to a feature only if it is likely to be finished: what features have cost so far, on average, must be
        there for it and for each one under way, and beyond that what a call's worst case exceeds its cost by. Until
        one has cost anything, they go one by one.
        """
        while waiting and not self._bought.stopped_by_budget:
            unspent = self._simulator.unspent
            paid = [cost for cost in map(self._simulator.costs.__getitem__, self._ended) if cost > 0]
            usual = sum(paid) / len(paid) if paid else unspent
            if math.isinf(unspent) or unspent >= (len(self._begun) + 1) * usual + (
                self._simulator.gap if paid else 0
            ):
                return True
            if not self._begun:
                self._bought.stopped_by_budget = True
                return False
            self._changed.clear()
            await self._changed.wait()
        return False

    def _end(self, feature: FeatureId) -> None:
        self._begun.discard(feature)
        self._ended.append(feature)
        self._changed.set()

    def _settle(self, number: int, explanation: Explanation | None) -> None:
        """Make the outcome of a feature's explanation known to those that wait for it."""
        if not self._explanations[number].done():
            self._explanations[number].set_result(explanation)

    async def _one(self, number: int, feature: FeatureId) -> None:
        explanation = await self._explain(feature)
        self._settle(number, explanation)
        if explanation is None:
            return
        partner = await self._partner(number, explanation)
        held_out = collect(self._db, feature, "test", self._config.held_out)
        outcome = await score_feature(
            self._simulator, explanation, held_out, self._config.scoring, other=partner
        )
        record_score(self._db, explanation, outcome)
        match outcome:
            case Failed():
                self._bought.failed.append(feature)
            case Score(value=None):
                self._bought.undefined.append(feature)
            case Score():
                self._bought.scored.append(feature)

    async def _explain(self, feature: FeatureId) -> Explanation | None:
        outcome = await self._shared(feature) or await self._own(feature)
        record_explanation(self._db, outcome)
        if isinstance(outcome, Failed):
            self._bought.failed.append(feature)
            return None
        self._bought.explained.append(feature)
        return outcome

    async def _shared(self, feature: FeatureId) -> Explanation | None:
        """The explanation of the feature that this one is nearly the same as, marked as shared; it costs nothing."""
        earlier = self._plan.shared.get(feature)
        if earlier is None:
            return None
        found = await self._explanations[self._plan.features.index(earlier)]
        if found is None:
            return None
        self._bought.shared.append(feature)
        return replace(found, feature=feature, explainer=f"{found.explainer}, shared from {earlier.index}")

    async def _own(self, feature: FeatureId) -> Explanation | Failed:
        shown = collect(self._db, feature, "train", self._config.shown)
        active = [e for e in shown if e.kind == "active"]
        if not active:
            return Failed(feature, "explain", "NoExemplars", "never fires in train windows")
        return await self._ask(feature, active, [e for e in shown if e.kind != "active"])

    async def _ask(
        self, feature: FeatureId, active: list[Exemplar], controls: list[Exemplar]
    ) -> Explanation | Failed:
        q999 = find_feature(self._db, feature).q999
        assert q999 is not None, f"{feature} fires, so it has quantiles"
        hint = self._plan.hints.get(feature)
        return await self._explainer.explain(feature, active, controls, q999=q999, hint=hint)

    async def _partner(self, number: int, explanation: Explanation) -> Explanation | None:
        """Another feature's explanation for the chance line.

        Drawn by hash among the features before this one, which are under way or done, so that waiting ends,
        and so that a run repeated with more budget draws the same and pays nothing again.
        """
        every = self._config.chance_every
        if every == 0 or number == 0 or number % every:
            return None
        digest = hashlib.blake2b(str(explanation.feature).encode(), digest_size=8).digest()
        start = int.from_bytes(digest, "big") % number
        for step in range(number):
            found = await self._explanations[(start + step) % number]
            if found is not None and found.text != explanation.text:  # a shared one is no chance
                return found
        return None

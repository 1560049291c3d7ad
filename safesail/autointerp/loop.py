"""The one walk over features: explain, score, next, so that a stop at any moment leaves a catalog.

A run, a dry run and a re-score are the same walk: a dry run asks clients that answer nothing and price everything, a
re-score reads explanations instead of asking for them.
"""

import asyncio
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tqdm import tqdm

from safesail.autointerp.clients import ChatPair
from safesail.autointerp.config import AutointerpConfig
from safesail.autointerp.exemplars import collect, collect_all
from safesail.autointerp.explainer import Shown, explain
from safesail.autointerp.report import RunReport
from safesail.autointerp.simulator import score_feature
from safesail.domain.ids import FeatureId
from safesail.domain.records import Explanation, Failed, Score
from safesail.errors import BudgetExceededError
from safesail.store.connection import Db
from safesail.store.exemplars import find_feature, find_features
from safesail.store.explanations import ScoreOrigin, record_explanation, record_score
from safesail.store.token_table import TokenTables


@dataclass(frozen=True)
class Plan:
    """What is to be explained and scored."""

    sae_id: str
    features: Sequence[FeatureId]
    """The most valuable first."""

    shared: Mapping[FeatureId, FeatureId] = field(default_factory=dict[FeatureId, FeatureId])
    """Features that take the explanation of an earlier one."""

    hints: Mapping[FeatureId, str] = field(default_factory=dict[FeatureId, str])
    """What the explainer is told beforehand."""

    tags: Mapping[FeatureId, Sequence[str]] = field(default_factory=dict[FeatureId, Sequence[str]])
    """Of the concepts that nominated a feature."""

    basis: str = ""
    """Where the features come from."""

    known: Mapping[FeatureId, Explanation] = field(default_factory=dict[FeatureId, Explanation])
    """Explanations that are only scored: nobody is asked for another."""


def chance_partners(features: Sequence[FeatureId], number: int, every: int) -> list[int]:
    """THE chance rule: whose explanations may give feature `number` its chance line, the first choice first.

    Every `every`-th feature has a chance line, the very first one none. The other feature is drawn by a hash of this
    one among those before it, so that waiting for it ends, and so that a run repeated with more budget draws the same
    and pays nothing again. The next ones are taken where it has no explanation, or the same.
    """
    if every == 0 or number == 0 or number % every:
        return []
    digest = hashlib.blake2b(str(features[number]).encode(), digest_size=8).digest()
    start = int.from_bytes(digest, "big") % number
    return [(start + step) % number for step in range(number)]


class Walk:
    """Explains and scores features in the order given until they or the budget are used up."""

    def __init__(
        self, db: Db, clients: ChatPair, config: AutointerpConfig, origin: ScoreOrigin | None
    ) -> None:
        """`origin`: of the scores; None: nothing is written."""
        self._db = db
        self._clients = clients
        self._config = config
        self._origin = origin
        self._tables = TokenTables(db)
        self._plan = Plan("", ())
        self._explanations: list[asyncio.Future[Explanation | None]] = []
        self._report = RunReport("", "")
        self._begun: set[FeatureId] = set()
        self._ended: list[FeatureId] = []
        self._changed = asyncio.Event()

    async def run(self, plan: Plan, *, quiet: bool) -> RunReport:
        """Explain and score the features of `plan`, the first one first.

        Raises:
            LLMUnavailableError: an endpoint is dead; what is finished is stored.
        """
        features = plan.features
        self._start(plan)
        waiting = list(reversed(list(enumerate(features))))
        with tqdm(desc="explain+score", total=len(features), unit="feature", disable=quiet) as bar:

            async def work() -> None:
                while await self._may_begin(waiting):
                    number, feature = waiting.pop()
                    self._begun.add(feature)
                    try:
                        await self._one(number, feature)
                    except BudgetExceededError as error:
                        self._report.stopped_by = str(error)
                        self._report.left += 1
                        return
                    finally:
                        self._settle(number, None)
                        self._end(feature)
                    bar.update()

            async with asyncio.TaskGroup() as group:
                for _ in range(self._config.concurrency):
                    group.create_task(work())
        self._report.left += len(waiting)
        self._report.tokens = self._clients.simulator.spent_tokens
        return self._report

    def _start(self, plan: Plan) -> None:
        self._plan, self._report = plan, RunReport(plan.sae_id, plan.basis)
        self._explanations = [asyncio.get_running_loop().create_future() for _ in plan.features]

    async def _may_begin(self, waiting: Sequence[object]) -> bool:
        """Whether another feature may begin; waits while the budget may be needed to finish those under way.

        A feature begins only if it is likely to be finished: what features have cost so far, on average, must be
        there for it and for each one under way, and beyond that what a call's worst case exceeds its cost by. Until
        one has cost anything, they go one by one.
        """
        simulator = self._clients.simulator
        while waiting and self._report.stopped_by is None:
            unspent = simulator.unspent
            paid = [cost for feature in self._ended if (cost := simulator.costs[feature]) > 0]
            usual = sum(paid) / len(paid) if paid else unspent
            reserve = simulator.gap if paid else 0.0
            if math.isinf(unspent) or unspent >= (len(self._begun) + 1) * usual + reserve:
                return True
            if not self._begun:
                written = self._clients.budget.written
                self._report.stopped_by = (
                    f"{written(unspent)} are left; a feature has cost {written(usual)} on average, and"
                    f" {written(reserve)} more are kept in reserve for the worst case of a call"
                )
                return False
            self._changed.clear()
            await self._changed.wait()
        return False

    def _end(self, feature: FeatureId) -> None:
        self._begun.discard(feature)
        self._ended.append(feature)
        if self._clients.explainer.costs[feature] or self._clients.simulator.costs[feature]:
            self._report.paid.append(feature)
        self._changed.set()

    def _settle(self, number: int, explanation: Explanation | None) -> None:
        """Make the outcome of a feature's explanation known to those that wait for it."""
        if not self._explanations[number].done():
            self._explanations[number].set_result(explanation)

    async def _one(self, number: int, feature: FeatureId) -> None:
        explanation = self._plan.known.get(feature) or await self._explain(feature)
        self._settle(number, explanation)
        if explanation is None:
            return
        windows = collect(self._db, feature, "test", self._config.test_exemplars)
        partner = await self._partner(number, explanation)
        score = await score_feature(
            self._clients.simulator,
            explanation,
            windows,
            self._config.scoring,
            other=partner,
            table=self._tables.table(find_feature(self._db, feature)),
        )
        if self._origin is not None:
            record_score(self._db, explanation, score, self._origin)
        self._count_score(score)

    def _count_score(self, score: Score) -> None:
        if score.error is not None:
            self._report.fail(score.feature, score.error, score.reason or "")
        else:
            (self._report.undefined if score.value is None else self._report.scored).append(score.feature)

    async def _explain(self, feature: FeatureId) -> Explanation | None:
        return self._keep(await self._shared(feature) or await self._ask(feature))

    def _keep(self, outcome: Explanation | Failed) -> Explanation | None:
        """Store and count what came of explaining a feature."""
        if self._origin is not None:
            record_explanation(self._db, outcome)
        if isinstance(outcome, Failed):
            self._report.fail(outcome.feature, outcome.error, outcome.message)
            return None
        self._report.explained.append(outcome.feature)
        return outcome

    async def _shared(self, feature: FeatureId) -> Explanation | None:
        """The explanation of the feature that this one is nearly the same as, marked as shared; it costs nothing."""
        earlier = self._plan.shared.get(feature)
        if earlier is None:
            return None
        explanation = await self._explanations[self._plan.features.index(earlier)]
        if explanation is None:
            return None
        self._report.shared.append(feature)
        explainer = f"{explanation.explainer}, shared from {earlier.index}"
        return replace(explanation, feature=feature, explainer=explainer)

    async def _ask(self, feature: FeatureId) -> Explanation | Failed:
        shown = self._shown(feature)
        if isinstance(shown, Failed):
            return shown
        client, config = self._clients.explainer, self._config.explain
        return await explain(client, feature, shown.windows, config, q999=shown.q999, hint=shown.hint)

    def _shown(self, feature: FeatureId) -> Shown | Failed:
        """What an explainer is shown of a feature."""
        return self._show_all([feature])[feature]

    def _show_all(self, features: Sequence[FeatureId]) -> dict[FeatureId, Shown | Failed]:
        """What an explainer is shown of several features, read at once."""
        harvested = list(find_features(self._db, features).values())
        windows = collect_all(self._db, harvested, "train", self._config.train_exemplars) if harvested else {}
        return {
            f.feature: Failed(f.feature, "NoExemplars", "never fires in train windows")
            if f.q999 is None or not any(e.kind == "active" for e in windows[f.feature])
            else Shown(f.feature, windows[f.feature], f.q999, self._plan.hints.get(f.feature))
            for f in harvested
        }

    async def _partner(self, number: int, explanation: Explanation) -> Explanation | None:
        """Another feature's explanation for the chance line, by the chance rule."""
        for other in chance_partners(self._plan.features, number, self._config.chance_every):
            partner = await self._explanations[other]
            if partner is not None and partner.text != explanation.text:  # a shared one is no chance
                return partner
        return None

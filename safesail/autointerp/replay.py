"""What a simulator said of a feature's windows, read again from the answers that the store keeps. Asks nobody."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safesail.autointerp.config import AutointerpConfig
from safesail.autointerp.exemplars import collect
from safesail.autointerp.origin import score_origin
from safesail.autointerp.pool_scorer import PoolScorer
from safesail.autointerp.simulator import context_of, simulate
from safesail.autointerp.units import Simulation
from safesail.domain.ids import FeatureId
from safesail.domain.records import Explanation
from safesail.errors import NotFoundError, SafeSailError
from safesail.llm.budget import parse_budget
from safesail.llm.budget_tracker import Spent
from safesail.llm.metered import CallRecord, MeteredClient
from safesail.llm.types import CallContext, LLMAnswer, LLMRequest
from safesail.store.calls import find_answer
from safesail.store.connection import Db
from safesail.store.explanations import read_explanations
from safesail.store.registry import run_settings
from safesail.waiting import wait_for


@dataclass(frozen=True)
class ScoreKey:
    """Which score is meant."""

    feature: FeatureId
    explanation_id: str
    simulator: str
    """`model @ endpoint`."""

    run_id: str | None
    settings_hash: str


class _Silent:
    """Stands where an endpoint does: nothing is ever sent."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    async def complete(self, request: LLMRequest) -> LLMAnswer:
        raise AssertionError("a replay asks nobody")

    def worst_case(self, request: LLMRequest) -> int:
        raise AssertionError("a replay asks nobody")


@dataclass(frozen=True)
class _PastAnswers:
    """The store's answers as a ledger to which nothing is written."""

    db: Db

    def lookup(self, cache_key: str, *, bad: bool = False) -> LLMAnswer | None:
        return find_answer(self.db, cache_key, bad=bad)

    def discard(self, cache_key: str, error: str) -> None:
        raise AssertionError("a replay writes nothing")

    def reserve(self, request: LLMRequest, context: CallContext, worst_case: int) -> int:
        raise AssertionError("a replay writes nothing")

    def settle(self, call_id: int, record: CallRecord) -> None:
        raise AssertionError("a replay writes nothing")

    def spent(self) -> Sequence[Spent]:
        return ()


class Replays:
    """Simulations of one open store; pools that several features share are read once."""

    def __init__(self, db: Db) -> None:
        self._db = db
        self._configs: dict[str, AutointerpConfig] = {}
        self._scorers: dict[tuple[str, str, str], PoolScorer] = {}

    def simulation(self, key: ScoreKey) -> Simulation:
        """What was said of the windows on which a score stands.

        Raises:
            NotFoundError: the store does not hold it any more, and why.
        """
        try:
            return wait_for(self._simulation(key))
        except* SafeSailError as group:
            first = group.exceptions[0]
            raise NotFoundError(str(first)) from group

    async def _simulation(self, key: ScoreKey) -> Simulation:
        config = self._config(key)
        explanation = read_explanations(self._db, [key.explanation_id]).get(key.explanation_id)
        if explanation is None:
            raise NotFoundError("its explanation cannot be read")
        if config.scoring.method == "pooled":
            said = await self._pooled(key, config, explanation)
        else:
            said = await self._alone(key, config, explanation)
        if not said.windows:
            raise NotFoundError("none of its answers could be read")
        return said

    def _config(self, key: ScoreKey) -> AutointerpConfig:
        """Settings of the run that made the score; refused where they would now make another one."""
        run_id = key.run_id or ""
        if run_id not in self._configs:
            settings = run_settings(self._db, run_id) if run_id else None
            if settings is None:
                raise NotFoundError("the store does not know the run that made this score")
            self._configs[run_id] = AutointerpConfig.read(_own(json.loads(settings)), f"run {run_id}")
        config = self._configs[run_id]
        if score_origin(self._db, "", key.feature.sae_id, config).settings_hash != key.settings_hash:
            raise NotFoundError(
                "the score was made by settings, a prompt or a text that are not here any more"
            )
        return config

    async def _pooled(self, key: ScoreKey, config: AutointerpConfig, explanation: Explanation) -> Simulation:
        name = (key.feature.sae_id, key.simulator, key.settings_hash)
        if name not in self._scorers:
            client = self._client(key)
            self._scorers[name] = PoolScorer(self._db, client, config, key.feature.sae_id, None)
        scorer = self._scorers[name]
        await scorer.recall([explanation])
        return scorer.gathered(explanation).simulation

    async def _alone(self, key: ScoreKey, config: AutointerpConfig, explanation: Explanation) -> Simulation:
        windows = collect(self._db, key.feature, "test", config.test_exemplars)
        context = context_of(key.feature, config.scoring)
        return await simulate(self._client(key), explanation.text, windows, config.scoring, context)

    def _client(self, key: ScoreKey) -> MeteredClient:
        endpoint = key.simulator.rpartition(" @ ")[2]
        return MeteredClient(
            _Silent(endpoint), _PastAnswers(self._db), parse_budget("unlimited"), replay=True
        )


def _own(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of a run's settings those of the stage."""
    return {name: value for name, value in settings.items() if name in AutointerpConfig.model_fields}

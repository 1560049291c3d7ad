"""Intruder detection: have the texts on which a feature fires anything in common? It needs no explanation.

Of each group of texts one does not belong; a judge that finds it more often than by chance sees what the feature sees
(Paulo and Belrose 2025, arXiv 2507.08473). Trials of several features share a prompt, one of each, so that no group
tells anything about another.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from safesail.autointerp.clients import Client
from safesail.autointerp.config import AutointerpConfig, IntruderConfig
from safesail.autointerp.exemplars import stratify
from safesail.autointerp.pools import shuffled
from safesail.autointerp.positions import Figure
from safesail.autointerp.simulator import LETTERS, STAGE
from safesail.domain.ids import FeatureId
from safesail.domain.pieces import join_pieces
from safesail.errors import BadAnswerError, BudgetExceededError, CacheMissError
from safesail.llm.types import CallContext, LLMRequest
from safesail.metrics.correlation import share_interval
from safesail.metrics.quantiles import levels
from safesail.prompting.marking import crop, marked
from safesail.prompting.parse import parse_choices
from safesail.prompting.templates import load_template
from safesail.store.connection import Db
from safesail.store.exemplars import HarvestedFeature, active_windows, find_feature, harvest_of
from safesail.store.explanations import ScoreOrigin
from safesail.store.intruders import IntruderScore, intruding_windows, record_intruder
from safesail.store.pools import SharedWindow, kept_apart, shared_windows
from safesail.store.token_table import keep_all

TEMPLATE = "intruder_v1"
_LEVELS = 5
_ROOM = 8
"""Tokens that one group takes in an answer at most."""


@dataclass(frozen=True)
class Trial:
    """Texts of which one does not belong."""

    texts: tuple[str, ...]
    intruder: int
    """Index of that one."""


@dataclass
class TrialTally:
    """What was found of one feature so far."""

    trials: Sequence[Trial]
    n: int = 0
    """Answered."""

    correct: int = 0
    tokens: float = 0.0

    def verdict(self, config: IntruderConfig) -> bool | None:
        """Wald's sequential test of `expected` against chance: passed, failed, or None: not decided."""
        p, chance = config.expected, config.chance
        ratio = self.correct * math.log(p / chance) + (self.n - self.correct) * math.log(
            (1 - p) / (1 - chance)
        )
        bound = math.log((1 - config.error) / config.error)
        if abs(ratio) < bound - 1e-9:
            return None
        return ratio > 0


@dataclass
class IntruderReport:
    """What a run got for its tokens."""

    sae_id: str
    simulator: str
    scores: Sequence[IntruderScore]
    tokens: int
    """Newly spent."""

    left: int
    """Features that the budget did not reach."""

    stopped_by: str | None

    @property
    def mean(self) -> Figure:
        """Share of trials, over features."""
        return Figure.mean([s.value for s in self.scores if s.value is not None])

    @property
    def above_chance(self) -> int:
        """Features whose interval lies above chance."""
        return sum(s.low is not None and s.low > s.chance for s in self.scores)

    def as_text(self) -> str:
        """For people."""
        valued = [s for s in self.scores if s.value is not None]
        chance = f", chance {self.scores[0].chance:.3f}" if self.scores else ""
        lines = [
            f"{self.sae_id}: intruder detection by {self.simulator}",
            f"{len(valued)} of {len(self.scores)} features tested, mean share found {self.mean.text}{chance};"
            f" {self.above_chance} clearly above chance",
            f"{self.tokens:,} new tokens",
        ]
        if self.stopped_by:
            lines.append(f"the budget ended before {self.left} more ({self.stopped_by})")
        return "\n".join(lines)


def intruder_origin(db: Db, run_id: str, sae_id: str, config: AutointerpConfig) -> ScoreOrigin:
    """How the scores of a run are made.

    Raises:
        NotFoundError: the SAE has no finished harvest.
    """
    settings = {
        "harvest": harvest_of(db, sae_id),
        "intruder": config.intruder.model_dump(mode="json"),
        "temperature": config.scoring.temperature,
        "prompt_hash": load_template(STAGE, TEMPLATE).prompt_hash,
    }
    return ScoreOrigin(run_id, settings)


class IntruderTest:
    """Asks about features of one SAE, a trial of each at a time."""

    def __init__(
        self, db: Db, client: Client, config: AutointerpConfig, sae_id: str, origin: ScoreOrigin | None
    ) -> None:
        """`origin`: of the scores; None: nothing is written."""
        self._db, self._client, self._config, self._sae_id = db, client, config, sae_id
        self._origin = origin
        self._missing: CacheMissError | None = None
        self.tested: dict[FeatureId, TrialTally] = {}
        self.stopped_by: str | None = None

    async def test(self, features: Sequence[FeatureId], *, decide: bool) -> Mapping[FeatureId, TrialTally]:
        """Ask about `features`, as many trials of each as the settings say, or with `decide` until it is decided.

        Features are asked about in blocks in the order given, so that a longer list asks the same of its beginning.

        Raises:
            CacheMissError: replay was asked for and an answer is not in the cache.
            LLMUnavailableError: the endpoint is dead; what was answered is kept.
        """
        apart = kept_apart(self._db, self._sae_id, [f.index for f in features])
        for feature in features:
            self.tested.setdefault(feature, TrialTally(self._trials(feature, apart[feature.index])))
        size = self._config.intruder.trials_per_call
        blocks = [features[start : start + size] for start in range(0, len(features), size)]
        async with asyncio.TaskGroup() as group:
            for block in blocks:
                group.create_task(self._block(block, decide=decide))
        if self._missing is not None:
            raise self._missing
        return {feature: self.tested[feature] for feature in features}

    def scores(self, features: Sequence[FeatureId]) -> list[IntruderScore]:
        """Of those that were asked about or cannot be; stored."""
        reached = [
            f for f in features if self.tested[f].n or not self.tested[f].trials or self.stopped_by is None
        ]
        scores = [self._score(feature, self.tested[feature]) for feature in reached]
        if self._origin is not None:
            for score in scores:
                record_intruder(self._db, score, self._origin)
        return scores

    def _score(self, feature: FeatureId, of: TrialTally) -> IntruderScore:
        simulator = f"{self._config.scoring.model} @ {self._client.endpoint}"
        chance = self._config.intruder.chance
        bare = IntruderScore(feature, simulator, None, None, None, chance, of.n, of.correct, round(of.tokens))
        if not of.trials:
            need = self._config.intruder.n_texts - 1
            return replace(bare, reason=f"it fires in fewer than {need} held-out windows")
        if not of.n:
            return replace(bare, reason="no answer was of use")
        low, high = share_interval(of.correct, of.n)
        return replace(bare, value=of.correct / of.n, low=low, high=high)

    async def _block(self, block: Sequence[FeatureId], *, decide: bool) -> None:
        config = self._config.intruder
        for number in range(config.n_trials):
            open_ones = [
                f
                for f in block
                if number < len(self.tested[f].trials)
                and not (decide and self.tested[f].verdict(config) is not None)
            ]
            if not open_ones or self.stopped_by is not None or self._missing is not None:
                return
            await self._ask(open_ones, number)

    async def _ask(self, features: Sequence[FeatureId], number: int) -> None:
        """One trial of each, in an order that is drawn; an answer that is of no use loses them."""
        asked = shuffled(features, "intruder", number, *features)
        trials = [self.tested[f].trials[number] for f in asked]
        request = make_request(self._client.endpoint, trials, self._config)
        prompt_hash = load_template(STAGE, TEMPLATE).prompt_hash
        labels = LETTERS[: self._config.intruder.n_texts]

        def parse(text: str) -> list[int]:
            return parse_choices(text, n_groups=len(trials), labels=labels)

        context = CallContext(STAGE, prompt_hash, shared_by=tuple(asked))
        try:
            answer = (await self._client.ask(request, context, parse)).answer
        except BadAnswerError as error:
            for feature in asked:
                self.tested[feature].tokens += error.tokens / len(asked)
            return
        except BudgetExceededError as error:
            self.stopped_by = str(error)
            return
        except CacheMissError as error:
            self._missing = error
            return
        for feature, trial, chosen in zip(asked, trials, parse(answer.text), strict=True):
            of = self.tested[feature]
            of.n, of.correct = of.n + 1, of.correct + (chosen == trial.intruder)
            of.tokens += answer.tokens / len(asked)

    def _trials(self, feature: FeatureId, apart: set[int]) -> list[Trial]:
        """All trials of a feature: windows over all its levels, and each time another feature's."""
        config, harvested = self._config.intruder, find_feature(self._db, feature)
        own = self._own_windows(harvested)
        if len(own) < config.n_texts - 1:
            return []
        sparse = not keep_all(self._db, [harvested])[feature]
        lent = intruding_windows(self._db, harvested, apart, config.n_trials, seed=config.seed, whole=sparse)
        donors = {j: find_feature(self._db, FeatureId(self._sae_id, j)) for j, _ in lent}
        shared = shared_windows(
            self._db, [harvested, *donors.values()], [*own, *(w for _, w in lent)], sparse=[]
        )
        trials: list[Trial] = []
        for number, (donor, window) in enumerate(lent):
            start = number * (config.n_texts - 1)
            mine = [own[(start + i) % len(own)] for i in range(config.n_texts - 1)]
            texts = [_text(shared[w], feature.index, config) for w in mine]
            texts.append(_text(shared[window], donor, config))
            order = shuffled(range(config.n_texts), "trial", config.seed, feature, number)
            trials.append(Trial(tuple(texts[i] for i in order), order.index(config.n_texts - 1)))
        return trials

    def _own_windows(self, harvested: HarvestedFeature) -> list[int]:
        config = self._config.intruder
        active = active_windows(self._db, harvested, "test")
        level = (
            levels(active.maximum, _LEVELS, harvested.q999) if harvested.q999 else active.maximum.astype(int)
        )
        n = config.n_trials * (config.n_texts - 1)
        return active.window_id[stratify(active.key, level, n, config.seed)].tolist()


def _text(shared: SharedWindow, feature: int, config: IntruderConfig) -> str:
    """The part of a window round its feature's strongest token, with the tokens marked on which that one fires."""
    activations = shared.activations[feature]
    assert activations is not None
    tokens, joined = join_pieces(shared.window.tokens, activations)
    start, stop = crop(joined, config.tokens_before, config.tokens_after)
    return marked(tokens[start:stop], [int(a > 0) for a in joined[start:stop]], with_level=False)


def make_request(endpoint: str, trials: Sequence[Trial], config: AutointerpConfig) -> LLMRequest:
    """What is sent about some trials; pure."""
    groups = [list(zip(LETTERS, trial.texts, strict=False)) for trial in trials]
    rendered = load_template(STAGE, TEMPLATE).render(groups=groups)
    scoring = config.scoring
    return LLMRequest(
        model=scoring.model,
        endpoint=endpoint,
        system=rendered.system,
        prompt=rendered.prompt,
        temperature=scoring.temperature,
        max_tokens=16 + len(trials) * _ROOM + scoring.extra_tokens,
    )

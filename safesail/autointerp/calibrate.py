"""Pooled scoring beside scoring explanations one at a time, on somebody's own endpoint: its cost, and does it agree?

The cheapest comparison comes first, so that a budget that ends early has bought something: pooled scores, the same
explanations beside strong and beside weak ones, then every explanation alone. All goes through the cache.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from safesail.autointerp.clients import Client
from safesail.autointerp.config import AutointerpConfig
from safesail.autointerp.exemplars import collect
from safesail.autointerp.origin import score_origin
from safesail.autointerp.pool_scorer import PoolScorer, ask_pool
from safesail.autointerp.pools import Gathered, PoolWindow, Round, draw_groups, shuffled
from safesail.autointerp.positions import DRAWS, Figure, Positions
from safesail.autointerp.score import correlation
from safesail.autointerp.simulator import score_feature
from safesail.domain.ids import FeatureId
from safesail.domain.methods import Method
from safesail.domain.records import Explanation, Score
from safesail.domain.undefined import Undefined
from safesail.errors import BadAnswerError, BudgetExceededError
from safesail.metrics.correlation import bootstrap_interval, pearson, spearman
from safesail.store.connection import Db
from safesail.store.exemplars import find_feature
from safesail.store.explanations import explanation_id, record_score
from safesail.store.pools import Pool, PoolMember
from safesail.store.token_table import TokenTables

AGREE = 0.7
"""Correlation over features from which two ways count as agreeing: about what a segment score's own reliability, .74,
lets two scores of one explanation reach."""

SHIFT = 0.05
"""A shift of scores that matters."""

USABLE = 0.9
"""Share of answers that must be of use."""


@dataclass(frozen=True)
class Way:
    """One way of scoring, and what it took."""

    method: str
    asked: int
    """Features that were asked about."""

    scored: int
    """Of those, how many got a score: the others' answers were of no use, or constant."""

    mean: Figure
    tokens_per_feature: float | None
    """Billed for all that was asked, answers from the cache as they were billed then."""


@dataclass(frozen=True)
class Calibration:
    """What the comparison found."""

    sae_id: str
    simulator: str
    asked: int
    """Features that were to be compared."""

    pooled: Way
    alone: Way
    agreement: Figure
    """Pearson correlation over features of the scores by both ways."""

    rank_agreement: Figure
    """Spearman's."""

    shift: Figure
    """Mean of pooled less alone, paired by feature."""

    interference: Figure
    """Score beside strong explanations less that beside weak ones, on the same texts, paired by feature."""

    explanation_order: Figure
    """Score in the first half of the prompts' list of explanations less that in the second."""

    text_order: Figure
    """The same of the texts."""

    lost: float | None
    """Share of pooled answers that were of no use."""

    tokens: int
    """Newly spent."""

    stopped_by: str | None
    advice: str
    """Name of a method, or `undecided`."""

    why: str

    def as_text(self) -> str:
        """For people."""
        lines = [
            f"{self.sae_id}: {self.asked} features scored in two ways by {self.simulator}",
            *map(_told, (self.pooled, self.alone)),
            f"agreement over {self.agreement.n} features: Pearson {self.agreement.text}, Spearman"
            f" {self.rank_agreement.text}; {self.pooled.method} less {self.alone.method}: {self.shift.text}",
            f"beside strong explanations less beside weak ones: {self.interference.text}",
            "first half of a prompt less second: of the explanations "
            f"{self.explanation_order.text}, of the texts {self.text_order.text}",
            f"{self.tokens:,} new tokens" + (f"; {self.stopped_by}" if self.stopped_by else ""),
            f"advice: {self.advice}, since {self.why}",
        ]
        if self.simulator.partition(" @ ")[2].startswith("builtin-"):
            lines.append(
                "a built-in model judges each explanation by itself: of how a language model bears several this says"
                " nothing"
            )
        return "\n".join(lines)


@dataclass
class _Scored:
    """What was asked so far."""

    pooled: dict[FeatureId, Score] = field(default_factory=dict[FeatureId, Score])
    alone: dict[FeatureId, Score] = field(default_factory=dict[FeatureId, Score])
    beside: dict[bool, dict[FeatureId, Gathered]] = field(
        default_factory=lambda: dict[bool, dict[FeatureId, Gathered]]({True: {}, False: {}})
    )
    """By whether the neighbours are the strong ones."""

    stopped_by: str | None = None


class Calibrator:
    """Scores the same explanations in several ways."""

    def __init__(
        self, db: Db, client: Client, config: AutointerpConfig, alone: Method, sae_id: str, run_id: str
    ) -> None:
        """`config` is that of pooled scoring; `alone` names the other way."""
        self._db, self._client, self._sae_id, self._run_id = db, client, sae_id, run_id
        self._config = config
        scoring = config.scoring
        self._alone = config.model_copy(update={"scoring": scoring.model_copy(update={"method": alone})})
        self._positions = Positions(scoring)
        origin = score_origin(db, run_id, sae_id, config)
        self._scorer = PoolScorer(db, client, config, sae_id, origin, self._positions.add)
        self._scored = _Scored()

    async def run(self, explanations: Sequence[Explanation], *, quiet: bool) -> Calibration:
        """Compare as far as the budget goes.

        Raises:
            LLMUnavailableError: the endpoint is dead; what was answered is kept.
        """
        steps = (self._score_pooled, self._score_beside, self._score_alone)
        with tqdm(desc="calibrate", total=len(steps), unit="step", disable=quiet) as bar:
            for step in steps:
                if self._scored.stopped_by is None:
                    await step(explanations)
                bar.update()
        return self._compared(explanations)

    async def _score_pooled(self, explanations: Sequence[Explanation]) -> None:
        rounds = self._config.scoring.pool.max_rounds
        scores = await self._scorer.score(explanations, rounds)
        self._scored.pooled = {score.feature: score for score in scores}
        self._scored.stopped_by = self._scorer.stopped_by

    async def _score_beside(self, explanations: Sequence[Explanation]) -> None:
        """Every explanation on the same texts, in the same places, beside the best ones and beside the worst ones."""
        values = {f: s.value for f, s in self._scored.pooled.items() if s.value is not None}
        ranked = sorted((e for e in explanations if e.feature in values), key=lambda e: values[e.feature])
        by_feature = {e.feature: e for e in ranked}
        size = max(1, self._config.scoring.pool.features // 2)
        groups = draw_groups(list(by_feature), {}, size, "interference")
        for turn in range(self._config.scoring.pool.min_rounds):
            for group in groups:
                focus = [by_feature[f] for f in group]
                others = [e for e in ranked if e.feature not in group]
                n = min(size, len(others) // 2)
                if n:
                    await self._ask_beside(focus, {False: others[:n], True: others[-n:]}, turn)
                if self._scored.stopped_by is not None:
                    return

    async def _ask_beside(
        self, focus: Sequence[Explanation], sides: Mapping[bool, Sequence[Explanation]], turn: int
    ) -> None:
        """One group beside either kind; both answers count, or neither: the figure is paired."""
        pool = Pool(tuple(PoolMember(e.feature.index, explanation_id(e), turn) for e in focus))
        windows = self._scorer.windows(pool)
        try:
            said = {strong: await self._said(focus, of, windows) for strong, of in sides.items()}
        except BadAnswerError:
            return
        except BudgetExceededError as error:
            self._scored.stopped_by = str(error)
            return
        for strong, (answer, tokens) in said.items():
            for e in focus:
                of = self._scored.beside[strong].setdefault(e.feature, Gathered())
                of.turns, of.tokens = of.turns + 1, of.tokens + tokens / len(focus)
                of.add(e.feature, answer, self._config.scoring, ())

    async def _said(
        self, focus: Sequence[Explanation], others: Sequence[Explanation], windows: Sequence[PoolWindow]
    ) -> tuple[Round, int]:
        """One answer; those that are judged stand in the same places whoever is beside them."""
        slots = shuffled([*focus, *others], "interference", *(e.feature for e in focus))
        answer, tokens, _ = await ask_pool(
            self._client, {e.feature: e.text for e in slots}, windows, self._config.scoring
        )
        return answer, tokens

    async def _score_alone(self, explanations: Sequence[Explanation]) -> None:
        tables = TokenTables(self._db)
        origin = score_origin(self._db, self._run_id, self._sae_id, self._alone)
        gate = asyncio.Semaphore(self._config.concurrency)

        async def one(explanation: Explanation) -> None:
            feature = explanation.feature
            async with gate:
                if self._scored.stopped_by is not None:
                    return
                windows = collect(self._db, feature, "test", self._config.test_exemplars)
                table = tables.table(find_feature(self._db, feature))
                scoring = self._alone.scoring
                try:
                    score = await score_feature(
                        self._client, explanation, windows, scoring, other=None, table=table
                    )
                except BudgetExceededError as error:
                    self._scored.stopped_by = str(error)
                    return
            record_score(self._db, explanation, score, origin)
            self._scored.alone[feature] = score

        async with asyncio.TaskGroup() as group:
            for explanation in explanations:
                group.create_task(one(explanation))

    def _compared(self, explanations: Sequence[Explanation]) -> Calibration:
        asked, scoring = self._scored, self._config.scoring
        gathered = [self._scorer.gathered(e) for e in explanations]
        turns = sum(g.turns for g in gathered)
        pairs = _pairs(asked.pooled, asked.alone)
        calibration = Calibration(
            sae_id=self._sae_id,
            simulator=f"{scoring.model} @ {self._client.endpoint}",
            asked=len(explanations),
            pooled=_way(scoring.label, list(asked.pooled.values())),
            alone=_way(self._alone.scoring.label, list(asked.alone.values())),
            agreement=_over(pairs, pearson),
            rank_agreement=_over(pairs, spearman),
            shift=Figure.mean((pairs[:, 0] - pairs[:, 1]).tolist()),
            interference=_interference(asked.beside),
            explanation_order=self._positions.explanations,
            text_order=self._positions.texts,
            lost=sum(len(g.failures) for g in gathered) / turns if turns else None,
            tokens=self._client.spent_tokens,
            stopped_by=asked.stopped_by,
            advice="undecided",
            why="",
        )
        advice, why = advise(calibration)
        return replace(calibration, advice=advice, why=why)


def advise(calibration: Calibration) -> tuple[str, str]:
    """Which way to score by, and why: pooled unless it is shown to fail, and only where it is shown to agree."""
    pooled, alone = calibration.pooled.method, calibration.alone.method
    if calibration.lost is not None and calibration.lost > 1 - USABLE:
        return alone, f"{calibration.lost:.0%} of the pooled answers are of no use"
    beside = calibration.interference
    if beside.low is not None and beside.high is not None and (beside.low > SHIFT or beside.high < -SHIFT):
        return alone, f"neighbours in a prompt shift scores by {beside.text}"
    of = calibration.agreement
    if of.low is None or of.high is None or of.value is None:
        return "undecided", f"{of.n} features have a score both ways; give a larger --calibrate or --budget"
    if of.high < AGREE:
        return alone, f"the two ways agree at {of.text} only, and {AGREE} would be enough"
    if of.value < AGREE:
        return "undecided", f"they agree at {of.text}, which does not say whether {AGREE} is reached"
    saved = _saved(calibration)
    return pooled, f"it agrees at {of.text} with scores one at a time{saved}"


def _saved(calibration: Calibration) -> str:
    a, b = calibration.pooled.tokens_per_feature, calibration.alone.tokens_per_feature
    return f", for {a / b:.0%} of their tokens, chance line included" if a and b else ""


def _told(way: Way) -> str:
    each = "-" if way.tokens_per_feature is None else f"{way.tokens_per_feature:,.0f}"
    return f"{way.method}: {way.scored} of {way.asked} features have a score, mean {way.mean.text}, {each} tokens each"


def _way(method: str, scores: Sequence[Score]) -> Way:
    values = [s.value for s in scores if s.value is not None]
    billed = sum(s.tokens or 0 for s in scores)
    return Way(
        method, len(scores), len(values), Figure.mean(values), billed / len(scores) if scores else None
    )


def _pairs(a: Mapping[FeatureId, Score], b: Mapping[FeatureId, Score]) -> Float[np.ndarray, "n 2"]:
    """Scores by both ways, of the features that have both."""
    both = [(x, y) for f in a if f in b and (x := a[f].value) is not None and (y := b[f].value) is not None]
    return np.array(both, float).reshape(-1, 2)


def _over(
    pairs: Float[np.ndarray, "n 2"], figure: Callable[[np.ndarray, np.ndarray], float | Undefined]
) -> Figure:
    """A correlation over features, with its interval over them."""
    value = figure(pairs[:, 0], pairs[:, 1])
    interval = bootstrap_interval(lambda i: figure(pairs[i, 0], pairs[i, 1]), len(pairs), DRAWS, seed=0)
    if isinstance(value, Undefined) or isinstance(interval, Undefined):
        return Figure(None, None, None, len(pairs))
    return Figure(value, *interval, len(pairs))


def _interference(beside: Mapping[bool, Mapping[FeatureId, Gathered]]) -> Figure:
    differences: list[float] = []
    for feature, strong in beside[True].items():
        a, b = (correlation(g.simulation.windows) for g in (strong, beside[False][feature]))
        if not isinstance(a, Undefined) and not isinstance(b, Undefined):
            differences.append(a - b)
    return Figure.mean(differences)

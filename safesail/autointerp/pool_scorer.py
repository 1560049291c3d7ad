"""Scoring several explanations together: asking about groups of them, round by round, until each one is decided."""

import asyncio
import itertools
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from safesail.autointerp.clients import Client
from safesail.autointerp.config import AutointerpConfig, ScoringConfig
from safesail.autointerp.exemplars import stratify
from safesail.autointerp.origin import score_origin
from safesail.autointerp.pools import (
    Gathered,
    PoolWindow,
    Round,
    Supply,
    cut_active,
    cut_silent,
    draw_groups,
    shuffled,
)
from safesail.autointerp.pricing import STAND_IN, amount, expected_cost, gap
from safesail.autointerp.score import score_of, with_lookup
from safesail.autointerp.simulator import STAGE, decided
from safesail.autointerp.units import segment_units
from safesail.domain.ids import FeatureId
from safesail.domain.records import Explanation, Score
from safesail.errors import (
    BadAnswerError,
    BudgetExceededError,
    RefusedAnswerError,
    TruncatedAnswerError,
    UnparsableAnswerError,
)
from safesail.llm.budget import Budget
from safesail.llm.metered import MeteredClient
from safesail.llm.types import CallContext, LLMRequest
from safesail.metrics.quantiles import levels
from safesail.prompting.marking import plain
from safesail.prompting.parse import parse_pooled
from safesail.prompting.templates import load_template
from safesail.store.connection import Db
from safesail.store.exemplars import (
    HarvestedFeature,
    active_windows_of,
    find_features,
    silent_windows_of,
)
from safesail.store.explanations import ScoreOrigin, explanation_id, read_explanations, record_score
from safesail.store.pools import (
    Pool,
    PoolKey,
    PoolMember,
    kept_apart,
    read_pools,
    record_lost,
    record_pools,
    replace_pool,
    shared_windows,
)
from safesail.store.token_table import TokenTables

_LEVELS = 5
"""Activation levels over which a feature's windows are spread."""

_SMALLEST = 2
"""Members of a group that is not halved any more."""

_ROOM = 7
"""Tokens that one named segment takes in an answer at most: its name, quotes, colon, rating and comma."""


def letter(number: int) -> str:
    """Name of a text in a prompt: A to Z, then AA, AB, ..."""
    letters = string.ascii_uppercase
    return letters[number] if number < 26 else letters[number // 26 - 1] + letters[number % 26]


def make_request(
    endpoint: str, texts: Sequence[str], windows: Sequence[Sequence[str]], config: ScoringConfig
) -> LLMRequest:
    """What is sent about several explanations and windows; pure.

    Args:
        endpoint: Of the simulator.
        texts: The explanations.
        windows: Segments of each window.
        config: Method and settings.
    """
    rendered = load_template(STAGE, config.template_name).render(
        explanations=[plain([text]) for text in texts],
        texts=[(letter(number), segments) for number, segments in enumerate(windows)],
        most=config.pool.most,
    )
    named = min(config.pool.most, sum(map(len, windows)))
    return LLMRequest(
        model=config.model,
        endpoint=endpoint,
        system=rendered.system,
        prompt=rendered.prompt,
        temperature=config.temperature,
        max_tokens=32 + len(texts) * (6 + named * _ROOM) + config.extra_tokens,
    )


async def ask_pool(
    client: Client,
    explanations: Mapping[FeatureId, str],
    windows: Sequence[PoolWindow],
    config: ScoringConfig,
) -> tuple[Round, int, bool]:
    """Ask once about all of `explanations` on all of `windows`.

    Returns:
        What was said, the tokens billed for it, and whether it came from the cache.

    Raises:
        BadAnswerError: the answer is of no use.
        BudgetExceededError: the call does not fit; nothing was sent.
        LLMUnavailableError: the endpoint is dead.
    """
    members = list(explanations)
    # Any member's truth: the segments are the text's alone.
    cut = [segment_units(w.tokens, [0.0] * len(w.tokens), config).texts for w in windows]
    labels = [f"{letter(n)}{i}" for n, segments in enumerate(cut) for i in range(1, len(segments) + 1)]
    request = make_request(client.endpoint, list(explanations.values()), cut, config)
    prompt_hash = load_template(STAGE, config.template_name).prompt_hash

    def parse(text: str) -> list[tuple[float, ...]]:
        return parse_pooled(text, n_explanations=len(members), labels=labels, most=2 * config.pool.most)

    context = CallContext(STAGE, prompt_hash, shared_by=tuple(members))
    answered = await client.ask(request, context, parse)
    ratings: dict[FeatureId, list[tuple[float, ...]]] = {}
    for member, flat in zip(members, parse(answered.answer.text), strict=True):
        ends = itertools.accumulate(map(len, cut), initial=0)
        ratings[member] = [flat[a:b] for a, b in itertools.pairwise(ends)]
    return Round(windows, ratings), answered.answer.tokens, answered.cached


@dataclass(frozen=True)
class _Known:
    """A feature and what it has to contribute."""

    harvested: HarvestedFeature
    supply: Supply
    sparse: bool


class PoolScorer:
    """Scores explanations of one SAE in groups, and keeps what was said of each."""

    def __init__(
        self,
        db: Db,
        client: Client,
        config: AutointerpConfig,
        sae_id: str,
        origin: ScoreOrigin | None,
        on_round: Callable[[Round], None] | None = None,
    ) -> None:
        """`origin`: of the scores; None: nothing is written. `on_round` is told of every round, stored ones too."""
        self._db = db
        self._client = client
        self._config = config
        self._scoring = config.scoring
        self._origin = origin
        self._on_round = on_round
        self._tables = TokenTables(db)
        simulator = f"{config.scoring.model} @ {client.endpoint}"
        self._key = PoolKey(sae_id, simulator, score_origin(db, "", sae_id, config).settings_hash)
        self._known: dict[FeatureId, _Known] = {}
        self._explanations: dict[str, Explanation] = {}
        self._gathered: dict[str, Gathered] = {}
        self._scores: dict[str, tuple[int, Score]] = {}
        """By explanation: after how many rounds, and what it was."""

        self._recalled: set[int] = set()
        self._n_draws = 0
        self._paid = 0.0
        self._paid_parts = 0
        """What was newly paid, in the budget's unit, and for how many parts of features in prompts."""

        self._estimate: tuple[float, float] | None = None
        """What `expected` says as long as nothing was paid."""

        self.stopped_by: str | None = None

    def gathered(self, explanation: Explanation) -> Gathered:
        """What was said of an explanation so far."""
        return self._gathered.setdefault(explanation_id(explanation), Gathered())

    async def score(self, explanations: Sequence[Explanation], rounds: int) -> list[Score]:
        """Ask about `explanations` until each was part of `rounds` prompts, or is decided; what is known counts.

        Returns:
            The score of each that was part of one.
        """
        self._explanations |= {explanation_id(e): e for e in explanations}
        self._know([e.feature for e in explanations])
        await self.recall(explanations)
        while self.stopped_by is None:
            open_ones = [e for e in explanations if self._is_open(e, rounds)]
            if not open_ones:
                break
            await self._round(open_ones)
        said = [e for e in explanations if self.gathered(e).turns]
        self._tables.fit([self._contributor(e.feature).harvested for e in said if self._is_news(e)])
        return [self._scored(e) for e in said]

    def _is_news(self, explanation: Explanation) -> bool:
        """Whether something was said since its score was computed."""
        known = self._scores.get(explanation_id(explanation))
        return known is None or known[0] != self.gathered(explanation).turns

    def _is_open(self, explanation: Explanation, rounds: int) -> bool:
        """Whether it is to be asked about again: not decided, and windows are left that were not shown."""
        gathered = self.gathered(explanation)
        left = self._contributor(explanation.feature).supply.turn(gathered.turns, self._scoring.pool)[0]
        if gathered.turns >= rounds or (gathered.turns and not left):
            return False
        return gathered.turns < self._scoring.pool.min_rounds or not decided(
            gathered.simulation.windows, self._scoring
        )

    def expected(self, features: Sequence[FeatureId], budget: Budget) -> tuple[float, float]:
        """What a feature's part in one prompt costs, and what must be free beside it, in the budget's unit.

        By what was paid so far, or else by what a prompt about the first of `features` would be.
        """
        if self._paid_parts:
            return self._paid / self._paid_parts, 0.0
        if self._estimate is None:
            self._estimate = self._priced(features, budget)
        return self._estimate

    def _priced(self, features: Sequence[FeatureId], budget: Budget) -> tuple[float, float]:
        of = features[: self._scoring.pool.features]
        members = Pool(tuple(PoolMember(f.index, "", 0) for f in of))
        units = [segment_units(w.tokens, [0.0] * len(w.tokens), self._scoring) for w in self.windows(members)]
        request = make_request(
            self._client.endpoint, [STAND_IN] * len(of), [u.texts for u in units], self._scoring
        )
        prices = self._client.prices if isinstance(self._client, MeteredClient) else {}
        cost = expected_cost(self._db, self._client.inner, request, STAGE, prices)
        return amount(cost, budget) / len(of), gap(cost, budget)

    async def recall(self, explanations: Sequence[Explanation]) -> None:
        """Take what earlier runs were told of these explanations, or were about to ask, from the cache."""
        asked = {explanation_id(e) for e in explanations}
        pools = [
            pool
            for pool in read_pools(self._db, self._key)
            if pool.pool_id not in self._recalled and asked & {m.explanation_id for m in pool.members}
        ]
        self._recalled |= {pool.pool_id for pool in pools if pool.pool_id is not None}
        missing = {m.explanation_id for pool in pools for m in pool.members} - set(self._explanations)
        self._explanations |= read_explanations(self._db, sorted(missing))
        whole = [p for p in pools if all(m.explanation_id in self._explanations for m in p.members)]
        await self._ask_all(whole)

    async def _round(self, explanations: Sequence[Explanation]) -> None:
        by_feature = {e.feature: e for e in explanations}
        pool = self._scoring.pool
        apart: dict[FeatureId, set[FeatureId]] = {}
        if not pool.hard:
            near = kept_apart(self._db, self._key.sae_id, [f.index for f in by_feature])
            apart = {
                FeatureId(self._key.sae_id, f): {FeatureId(self._key.sae_id, g) for g in others}
                for f, others in near.items()
            }
        key = f"{self._scoring.seed}/{self._n_draws}"
        self._n_draws += 1
        groups = draw_groups(list(by_feature), apart, pool.features, key)
        drawn = [Pool(tuple(self._member(by_feature[f]) for f in group)) for group in groups]
        if self._origin is not None:
            drawn = record_pools(self._db, self._key, drawn, self._origin.run_id)
            self._recalled |= {p.pool_id for p in drawn if p.pool_id is not None}
        await self._ask_all(drawn)

    def _member(self, explanation: Explanation) -> PoolMember:
        turn = self.gathered(explanation).turns
        return PoolMember(explanation.feature.index, explanation_id(explanation), turn)

    async def _ask_all(self, pools: Sequence[Pool]) -> None:
        before = sum(self._client.costs.values())
        async with asyncio.TaskGroup() as group:
            for pool in pools:
                group.create_task(self._ask(pool))
        self._paid += sum(self._client.costs.values()) - before

    async def _ask(self, pool: Pool) -> None:
        """Ask about one group, and give every member what was said; a bad answer loses the round of these only."""
        explained = [self._explanations[m.explanation_id] for m in pool.members]
        windows = self.windows(pool)
        texts = {e.feature: e.text for e in shuffled(explained, "order", *pool.members)}
        try:
            if pool.error is not None:
                raise _fault(pool)
            said, tokens, cached = await ask_pool(self._client, texts, windows, self._scoring)
        except BadAnswerError as error:
            for explanation in explained:
                self._lose(explanation, error, len(windows), len(explained))
            if pool.error is None and self._origin is not None:
                record_lost(self._db, pool, error)
            return
        except BudgetExceededError as error:
            await self._ask_halves(pool, error)
            return
        self._paid_parts += 0 if cached else len(explained)
        if self._on_round is not None:
            self._on_round(said)
        for explanation in explained:
            twins = {e.feature for e in explained if e.text == explanation.text}
            gathered = self.gathered(explanation)
            gathered.turns += 1
            gathered.tokens += tokens / len(explained)
            gathered.add(explanation.feature, said, self._scoring, twins)

    async def _ask_halves(self, pool: Pool, error: BudgetExceededError) -> None:
        """Ask about either half of a group whose prompt the budget cannot pay; of two, it has ended."""
        if len(pool.members) <= _SMALLEST or self.stopped_by is not None:
            self.stopped_by = self.stopped_by or str(error)
            return
        middle = len(pool.members) // 2
        halves = [Pool(pool.members[:middle]), Pool(pool.members[middle:])]
        if self._origin is not None:
            halves = replace_pool(self._db, self._key, pool, halves, self._origin.run_id)
            self._recalled |= {p.pool_id for p in halves if p.pool_id is not None}
        for half in halves:
            await self._ask(half)

    def _lose(self, explanation: Explanation, error: BadAnswerError, n_windows: int, n_members: int) -> None:
        gathered = self.gathered(explanation)
        gathered.turns += 1
        gathered.tokens += error.tokens / n_members
        gathered.failures.append(error)
        gathered.n_failed += n_windows

    def windows(self, pool: Pool) -> list[PoolWindow]:
        """The windows that a group's members contribute, in the order in which they are shown; no window twice."""
        sae_id, config = self._key.sae_id, self._scoring.pool
        members = [FeatureId(sae_id, m.feature) for m in pool.members]
        self._know(members)
        known = [self._known[f] for f in members]
        turns = [k.supply.turn(m.turn, config) for k, m in zip(known, pool.members, strict=True)]
        shared = shared_windows(
            self._db,
            [k.harvested for k in known],
            [w for active, silent in turns for w in (*active, *silent)],
            sparse=[f.index for f, k in zip(members, known, strict=True) if k.sparse],
        )
        chosen: dict[int, PoolWindow] = {}
        for feature, k, (active, silent) in zip(members, known, turns, strict=True):
            for w in active:
                chosen.setdefault(w, cut_active(feature, shared[w], members, config))
            for w in silent:
                hard = k.harvested.top_tokens
                chosen.setdefault(w, cut_silent(feature, shared[w], members, config, hard_tokens=hard))
        return shuffled(list(chosen.values()), "windows", *pool.members)

    def _contributor(self, feature: FeatureId) -> _Known:
        self._know([feature])
        return self._known[feature]

    def _know(self, features: Sequence[FeatureId]) -> None:
        """Read at once what features contribute: held-out windows, active ones over all levels, and controls."""
        new = list(dict.fromkeys(f for f in features if f not in self._known))
        if not new:
            return
        pool, seed = self._scoring.pool, self._config.test_exemplars.seed
        harvested = list(find_features(self._db, new).values())
        self._tables.look_up(harvested)
        active = active_windows_of(self._db, harvested, "test")
        n = pool.n_silent * pool.max_rounds
        hard = silent_windows_of(self._db, harvested, "test", "hard", n=n, seed=seed)
        anywhere = silent_windows_of(self._db, harvested, "test", "random", n=n, seed=seed + 1)
        for f in harvested:
            of = active[f.feature]
            level = levels(of.maximum, _LEVELS, f.q999) if f.q999 else of.maximum.astype(int)
            order = stratify(of.key, level, pool.n_active * pool.max_rounds, seed)
            silent = _in_turn(hard[f.feature], anywhere[f.feature])[:n]
            supply = Supply(of.window_id[order].tolist(), silent)
            self._known[f.feature] = _Known(f, supply, self._tables.sparse(f))

    def _scored(self, explanation: Explanation) -> Score:
        """The score by all that was said so far, computed anew where something was said since the last time."""
        identity = explanation_id(explanation)
        if self._is_news(explanation):
            self._scores[identity] = self.gathered(explanation).turns, self._record(explanation)
        return self._scores[identity][1]

    def _record(self, explanation: Explanation) -> Score:
        """The score by all that was said so far, stored."""
        gathered, config = self.gathered(explanation), self._scoring
        prompt_hash = load_template(STAGE, config.template_name).prompt_hash
        score = score_of(
            explanation.feature, self._key.simulator, gathered.simulation, None, config, prompt_hash
        )
        score = replace(score, chance=gathered.chance)
        table = self._tables.table(self._contributor(explanation.feature).harvested)
        score = with_lookup(score, gathered.simulation.windows, table, config)
        if self._origin is not None:
            record_score(self._db, explanation, score, self._origin)
        return score


def _fault(pool: Pool) -> BadAnswerError:
    """What was wrong with an answer, as it was noted then."""
    kinds = (UnparsableAnswerError, TruncatedAnswerError, RefusedAnswerError)
    error = {kind.__name__: kind for kind in kinds}.get(pool.error or "", BadAnswerError)(pool.message or "")
    error.tokens = pool.tokens or 0
    return error


def _in_turn(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """Both, taking turns, each item once."""
    turns = [w for i in range(max(len(first), len(second))) for w in (*first[i : i + 1], *second[i : i + 1])]
    return list(dict.fromkeys(turns))

"""What studies of the scorers share: many explanations scored in memory, a simulator that knows, and agreement."""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from safesail.autointerp.config import ScoringConfig
from safesail.autointerp.simulator import score_feature
from safesail.domain.records import Exemplar, Explanation, Score
from safesail.domain.undefined import Undefined
from safesail.llm.budget import parse_budget
from safesail.llm.budget_tracker import Spent
from safesail.llm.builtin_prompts import billed, prompt_tokens, read_prompt, write_ratings, write_segments
from safesail.llm.embedding import Embed, EmbeddingModel
from safesail.llm.metered import CallRecord, MeteredClient
from safesail.llm.types import CallContext, ChatClient, LLMAnswer, LLMRequest
from safesail.metrics.correlation import bootstrap_interval, pearson, spearman
from safesail.prompting.marking import plain, safe_text
from safesail.prompting.segments import cut_segments

Claim = tuple[Explanation, Sequence[Exemplar]]
"""An explanation, and held-out windows of its feature."""


@dataclass
class MemoryLedger:
    """The cache and ledger of one study, never written to disk."""

    calls: list[tuple[LLMRequest, CallRecord]] = field(default_factory=list)
    _under_way: dict[int, LLMRequest] = field(default_factory=dict)

    def lookup(self, cache_key: str, *, bad: bool = False) -> LLMAnswer | None:
        return None

    def discard(self, cache_key: str, error: str) -> None:
        pass

    def reserve(self, request: LLMRequest, context: CallContext, worst_case: int) -> int:
        number = len(self._under_way)
        self._under_way[number] = request
        return number

    def settle(self, call_id: int, record: CallRecord) -> None:
        self.calls.append((self._under_way[call_id], record))

    def spent(self) -> Sequence[Spent]:
        return ()


@dataclass(frozen=True)
class Scored:
    """Scores of many explanations by one method."""

    values: tuple[float | None, ...]
    """None where undefined or failed."""

    tokens: tuple[int, ...]
    windows: tuple[int, ...]
    calls: tuple[tuple[LLMRequest, CallRecord], ...]

    @property
    def mean_tokens(self) -> float:
        return float(np.mean(self.tokens))


def score_all(claims: Sequence[Claim], model: ChatClient, config: ScoringConfig) -> Scored:
    """Score every claim, without chance lines."""
    ledger = MemoryLedger()
    client = MeteredClient(model, ledger, parse_budget("unlimited"))

    async def run() -> list[Score]:
        return [await score_feature(client, e, windows, config, other=None) for e, windows in claims]

    scores = asyncio.run(run())
    return Scored(
        tuple(s.value for s in scores),
        tuple(s.tokens or 0 for s in scores),
        tuple(s.n_windows or 0 for s in scores),
        tuple(ledger.calls),
    )


@dataclass(frozen=True)
class Oracle:
    """Knows the truth and errs at a set rate.

    Each feature's tokens are believed active or not once, before any is asked about: an active one is missed at
    the feature's error rate, and as many silent ones, drawn at random, are believed active. So token and segment
    answers come from the same beliefs, and differ by what is asked alone.
    """

    ratings: Mapping[tuple[str, str], Sequence[int]]
    """By explanation and text of a window: a rating from 0 to 10 of every token."""

    sizes: Mapping[tuple[str, str], Sequence[str]]
    segment_tokens: int

    @property
    def endpoint(self) -> str:
        return "oracle"

    def worst_case(self, request: LLMRequest) -> int:
        return prompt_tokens(request) + request.max_tokens

    async def complete(self, request: LLMRequest) -> LLMAnswer:
        asked = read_prompt(request.prompt)
        if asked.block == "tokens":
            tokens = asked.tokens
            return billed(
                write_ratings(tokens, self.ratings[asked.explanation, _key("".join(tokens))]), request
            )
        grades: dict[int, int] = {}
        place = 0
        for segments in asked.segments.values():
            key = asked.explanation, _key("".join(segments))
            believed = self.ratings[key]
            for start, stop in cut_segments(self.sizes[key], self.segment_tokens):
                if highest := max(believed[start:stop]):
                    grades[place] = highest
                place += 1
        return billed(write_segments(asked, grades), request)


def oracle(claims: Sequence[Claim], segment_tokens: int, *, worst: float, seed: int = 0) -> Oracle:
    """An oracle on the windows of `claims`; features' error rates lie evenly between 0 and `worst`."""
    ratings: dict[tuple[str, str], list[int]] = {}
    tokens: dict[tuple[str, str], Sequence[str]] = {}
    for number, (explanation, windows) in enumerate(claims):
        rate = worst * number / max(1, len(claims) - 1)
        base = _density(windows)
        top = max(max(e.activations) for e in windows)
        for exemplar in windows:
            rng = np.random.default_rng(_seed(seed, explanation, exemplar))
            draws = rng.random((2, len(exemplar.activations)))
            strength = rng.integers(1, 11, len(exemplar.activations))
            truth = np.array(exemplar.activations)
            kept = np.ceil(10 * truth / top) * (draws[0] >= rate)
            invented = strength * (draws[1] < rate * base / (1 - base))
            key = plain([explanation.text]), _key("".join(map(safe_text, exemplar.window.tokens)))
            ratings[key] = np.where(truth > 0, kept, invented).astype(int).tolist()
            tokens[key] = exemplar.window.tokens
    return Oracle(ratings, tokens, segment_tokens)


def remembering(embed: Embed) -> Embed:
    """`embed`, each text once: studies ask about the same windows over and over."""
    known: dict[str, NDArray[np.float32]] = {}

    def vectors(texts: Sequence[str]) -> NDArray[np.float32]:
        new = list(dict.fromkeys(text for text in texts if text not in known))
        if new:
            known.update(zip(new, embed(new), strict=True))
        return np.stack([known[text] for text in texts])

    return vectors


def embedding() -> EmbeddingModel:
    """The built-in simulator that goes by meaning."""
    from safesail.subject.minilm import load_embed

    return EmbeddingModel(remembering(load_embed()))


def compared(a: Sequence[float | None], b: Sequence[float | None], draws: int = 2000) -> dict[str, object]:
    """Correlations of two scores over features, with 95 % bootstrap intervals over features."""
    both = np.array([(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]).reshape(
        -1, 2
    )

    def of(statistic: Callable[..., float | Undefined]) -> list[float] | None:
        value = statistic(both[:, 0], both[:, 1])
        interval = bootstrap_interval(
            lambda i: statistic(both[i, 0], both[i, 1]), len(both), draws, seed=0
        )  # fmt: skip
        if isinstance(value, Undefined) or isinstance(interval, Undefined):
            return None
        return [round(v, 3) for v in (value, *interval)]

    return {"n": len(both), "pearson": of(pearson), "spearman": of(spearman)}


def _density(windows: Sequence[Exemplar]) -> float:
    active: Float[np.ndarray, " n"] = np.concatenate([np.array(e.activations) > 0 for e in windows])
    return float(active.mean())


def _key(text: str) -> str:
    """Segments lose the spaces at their ends."""
    return "".join(text.split())


def _seed(seed: int, explanation: Explanation, exemplar: Exemplar) -> int:
    text = f"{seed}/{explanation.feature}/{exemplar.window.document_id}/{exemplar.window.start}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")

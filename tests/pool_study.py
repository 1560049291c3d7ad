"""What the study of pooled scoring is made of: a simulator's ratings of whole splits, and pools asked in memory."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float

from safesail.autointerp.config import AutointerpConfig, ScoringConfig
from safesail.autointerp.pool_scorer import PoolScorer
from safesail.domain.ids import FeatureId
from safesail.domain.pieces import join_pieces
from safesail.domain.records import Explanation
from safesail.domain.undefined import Undefined
from safesail.llm.budget import parse_budget
from safesail.llm.builtin import BuiltinModel
from safesail.llm.builtin_prompts import (
    billed,
    prompt_tokens,
    read_prompt,
    write_pooled,
    write_segments,
)
from safesail.llm.metered import CallRecord, MeteredClient
from safesail.llm.types import LLMAnswer, LLMRequest
from safesail.llm.words import split_words
from safesail.metrics.correlation import pearson
from safesail.prompting.marking import plain, safe_text
from safesail.store.connection import Db
from safesail.store.exemplars import find_feature
from safesail.store.pools import shared_windows
from safesail.store.sql import rows
from tests.study import MemoryLedger

Ratings = Float[np.ndarray, " n_tokens"]


@dataclass(frozen=True)
class Split:
    """Every held-out window, with the truth of every feature."""

    tokens: tuple[tuple[str, ...], ...]
    places: tuple[tuple[str, int], ...]
    truth: Mapping[FeatureId, tuple[Ratings, ...]]
    """By feature and window."""


def read_split(db: Db, features: Sequence[FeatureId]) -> Split:
    """All windows of the test split."""
    ids = [int(r[0]) for r in rows(db, "SELECT window_id FROM windows WHERE split = 'test' ORDER BY 1")]
    shared = shared_windows(db, [find_feature(db, f) for f in features], ids, sparse=[])
    windows = [shared[i] for i in ids]
    tokens = [join_pieces(w.window.tokens, [0.0] * len(w.window.tokens))[0] for w in windows]
    truth: dict[FeatureId, tuple[Ratings, ...]] = {}
    for feature in features:
        of = [w.activations[feature.index] for w in windows]
        truth[feature] = tuple(
            np.array(join_pieces(w.window.tokens, a or [])[1]) for w, a in zip(windows, of, strict=True)
        )
    places = tuple((w.window.document_id, w.window.start) for w in windows)
    return Split(tuple(tokens), places, truth)


def rate_tokens(model: BuiltinModel, explanation: str, split: Split) -> list[Ratings]:
    """What a built-in model would answer about every token of every window, without prompts."""
    texts = ["".join(map(safe_text, tokens)) for tokens in split.tokens]
    words = [split_words(text) for text in texts]
    scored = model.word_scores(plain([explanation]), [[w.text for w in of] for of in words])
    found: list[Ratings] = []
    for tokens, of, scores in zip(split.tokens, words, scored, strict=True):
        spans = pairwise(accumulate(map(len, tokens), initial=0))
        best = [
            max((s for w, s in zip(of, scores, strict=True) if w.start < b and w.stop > a), default=0.0)
            for a, b in spans
        ]
        found.append(np.array([model.rating(score) for score in best], float))
    return found


@dataclass(frozen=True)
class SplitOracle:
    """Knows the truth of every window, errs at a set rate, and finds the part of a window that it is asked about.

    What it believes of a token is settled before any question, so token, segment and pooled answers differ by what is
    asked alone.
    """

    split: Split
    believed: Mapping[str, Sequence[Ratings]]
    """By explanation and window: a rating of every token."""

    @property
    def endpoint(self) -> str:
        return "oracle"

    def worst_case(self, request: LLMRequest) -> int:
        return prompt_tokens(request) + request.max_tokens

    async def complete(self, request: LLMRequest) -> LLMAnswer:
        asked = read_prompt(request.prompt)
        texts = list(asked.segments.values())
        told = asked.explanations or [asked.explanation]
        grades = [self._grades(explanation, texts) for explanation in told]
        text = write_pooled(asked, grades) if asked.explanations else write_segments(asked, grades[0])
        return billed(text, request)

    def _grades(self, explanation: str, texts: Sequence[Sequence[str]]) -> dict[int, int]:
        grades: dict[int, int] = {}
        number = 0
        for segments in texts:
            for start, stop, window in self._find(segments):
                of = self.believed[explanation][window][start:stop]
                if of.size and (highest := int(of.max())):
                    grades[number] = highest
                number += 1
        return grades

    def _find(self, segments: Sequence[str]) -> list[tuple[int, int, int]]:
        """Tokens of each segment, and the window that all are of."""
        key = "".join("".join(segments).split())
        for window, text in enumerate(_packed(self.split)):
            if (at := text.find(key)) >= 0:
                ends = np.cumsum(
                    [0, *(len("".join(safe_text(t).split())) for t in self.split.tokens[window])]
                )
                cuts = accumulate((len("".join(s.split())) for s in segments), initial=at)
                return [
                    (
                        int(np.searchsorted(ends, a, "right")) - 1,
                        int(np.searchsorted(ends, b, "left")),
                        window,
                    )
                    for a, b in pairwise(cuts)
                ]
        raise AssertionError(f"no window has {key!r}")


_PACKED: dict[int, list[str]] = {}


def _packed(split: Split) -> list[str]:
    if id(split) not in _PACKED:
        _PACKED[id(split)] = ["".join("".join(map(safe_text, tokens)).split()) for tokens in split.tokens]
    return _PACKED[id(split)]


def split_oracle(
    split: Split, explanations: Sequence[Explanation], *, worst: float, seed: int = 0
) -> SplitOracle:
    """Error rates of features lie evenly between 0 and `worst`, as those of `tests.study.oracle`."""
    believed: dict[str, Sequence[Ratings]] = {}
    for number, explanation in enumerate(explanations):
        rate = worst * number / max(1, len(explanations) - 1)
        truth = split.truth[explanation.feature]
        base = float(np.mean(np.concatenate(truth) > 0))
        top = max(float(t.max(initial=0)) for t in truth)
        rng = np.random.default_rng([seed, explanation.feature.index])
        of: list[Ratings] = []
        for activations in truth:
            draws, strength = rng.random((2, activations.size)), rng.integers(1, 11, activations.size)
            kept = np.ceil(10 * activations / top) * (draws[0] >= rate)
            invented = strength * (draws[1] < rate * base / (1 - base))
            of.append(np.where(activations > 0, kept, invented))
        believed[plain([explanation.text])] = of
    return SplitOracle(split, believed)


@dataclass(frozen=True)
class Pooled:
    """Scores of many explanations after each round."""

    values: list[list[float | None]]
    """By round and explanation."""

    halves: list[tuple[list[float | None], list[float | None]]]
    """By round: scores of the odd rounds' windows so far, and of the even ones'."""

    covered: list[list[tuple[float, float] | None]]
    """By round: intervals."""

    chance: list[list[float | None]]
    calls: list[list[tuple[LLMRequest, CallRecord]]]
    """By round: all so far."""


def pool_rounds(
    db: Db, model: BuiltinModel | SplitOracle, explanations: Sequence[Explanation], scoring: ScoringConfig
) -> Pooled:
    """Ask about `explanations` together, `max_rounds` times."""
    ledger = MemoryLedger()
    client = MeteredClient(model, ledger, parse_budget("unlimited"))
    scorer = PoolScorer(db, client, AutointerpConfig(scoring=scoring), explanations[0].feature.sae_id, None)
    found = Pooled([], [], [], [], [])
    seen: list[list[int]] = [[0] for _ in explanations]
    for number in range(1, scoring.pool.max_rounds + 1):
        scores = {s.feature: s for s in asyncio.run(scorer.score(explanations, number))}
        for counts, e in zip(seen, explanations, strict=True):
            counts.append(len(scorer.gathered(e).said))
        of = [scores[e.feature] for e in explanations]
        found.values.append([s.value for s in of])
        found.chance.append([s.chance for s in of])
        found.covered.append(
            [(s.low, s.high) if s.low is not None and s.high is not None else None for s in of]
        )
        found.calls.append(list(ledger.calls))
        found.halves.append(_halves(scorer, explanations, seen))
    return found


def _halves(
    scorer: PoolScorer, explanations: Sequence[Explanation], seen: Sequence[Sequence[int]]
) -> tuple[list[float | None], list[float | None]]:
    """Scores of what the odd rounds and the even ones said."""
    both: tuple[list[float | None], list[float | None]] = ([], [])
    for e, counts in zip(explanations, seen, strict=True):
        windows = scorer.gathered(e).simulation.windows
        for parity, values in enumerate(both):
            part = [w for i, (a, b) in enumerate(pairwise(counts)) if i % 2 == parity for w in windows[a:b]]
            values.append(
                score_of_sides([np.array(w.units.true) for w in part], [np.array(w.predicted) for w in part])
            )
    return both


def score_of_sides(true: Sequence[Ratings], said: Sequence[Ratings]) -> float | None:
    """Pooled Pearson; None where it is undefined."""
    if not true:
        return None
    value = pearson(np.concatenate(true), np.concatenate(said))
    return None if isinstance(value, Undefined) else value


def reliability(a: Sequence[float | None], b: Sequence[float | None]) -> float | None:
    """Correlation of two halves over features, corrected to the whole length (Spearman-Brown)."""
    both = np.array([(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None])
    r = pearson(both[:, 0], both[:, 1]) if len(both) > 2 else Undefined("too few")
    return None if isinstance(r, Undefined) else 2 * r / (1 + r)


Count = Callable[[str], int]


def real_counter(folder: Path) -> Count:
    """Tokens by SmolLM2's own tokenizer."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)

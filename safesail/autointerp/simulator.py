"""Scoring an explanation by asking a simulator, which sees the explanation and texts and nothing else."""

import hashlib
import json
import string
from collections.abc import Sequence

from safesail.autointerp.clients import Client
from safesail.autointerp.config import ScoringConfig
from safesail.autointerp.score import agreement, score_of, with_lookup
from safesail.autointerp.units import Simulated, Simulation, Units, units_of
from safesail.domain.ids import FeatureId
from safesail.domain.records import Exemplar, Explanation, Score
from safesail.domain.undefined import Undefined
from safesail.errors import BadAnswerError
from safesail.llm.types import CallContext, LLMRequest
from safesail.prompting.marking import plain
from safesail.prompting.parse import ACTIVE_SCHEMA, parse_active, parse_graded, parse_listed, parse_ratings
from safesail.prompting.templates import load_template
from safesail.store.token_table import Table

STAGE = "simulate"
_ROOM = {"active graded": 8, "active binary": 6, "list graded": 4, "list binary": 3}
"""Tokens that one segment takes in an answer at most, by the answer's form: two letters or digits of its name each
one token, quotes, colon, rating and comma."""

MIN_BEFORE_STOP = 10
"""Windows that are asked about before an interval may stop it: resamples of a few windows agree by luck."""

LETTERS = string.ascii_uppercase
"""Names of the windows in a prompt."""


def batches_of(windows: Sequence[Exemplar], size: int) -> list[list[Exemplar]]:
    """Windows in batches of at most `size`, all about as large, in an order that tells nothing.

    The first n windows have their share of every kind, whatever n, so that asking may stop after any batch. The
    order depends on the windows alone, not on the order in which they come.
    """
    by_kind: dict[str, list[Exemplar]] = {}
    for exemplar in sorted(windows, key=_rank):
        by_kind.setdefault(exemplar.kind, []).append(exemplar)
    spread = [
        ((i + 0.5) / len(group), kind, exemplar)
        for kind, group in by_kind.items()
        for i, exemplar in enumerate(group)
    ]
    mixed = [exemplar for *_, exemplar in sorted(spread, key=lambda item: item[:2])]
    n_batches = -(-len(mixed) // size)
    starts = [i * len(mixed) // n_batches for i in range(n_batches)]
    stops = [*starts[1:], len(mixed)]
    return [sorted(mixed[a:b], key=_rank) for a, b in zip(starts, stops, strict=True)] if mixed else []


async def score_feature(
    client: Client,
    explanation: Explanation,
    windows: Sequence[Exemplar],
    config: ScoringConfig,
    *,
    other: Explanation | None,
    table: Table | None = None,
) -> Score:
    """Score `explanation` on held-out windows of its feature.

    Args:
        client: The simulator.
        explanation: What is tested.
        windows: Windows of the `test` split, active ones and controls.
        config: Method and settings.
        other: Another feature's explanation, which gives the chance line on the same windows; None: no line.
        table: Token table of the feature, which gives the look-up's score on the same units; None: none.

    Returns:
        A score, whose value may be undefined with its reason; with an error where nothing could be asked.

    Raises:
        BudgetExceededError: the next call does not fit; what was answered before is in the cache.
        LLMUnavailableError: the endpoint is dead.
    """
    feature = explanation.feature
    assert all(e.window.split == "test" for e in windows), "a score needs held-out windows"
    assert all(e.feature == feature for e in windows), "windows of another feature"
    assert other is None or other.feature != feature, "chance needs another feature's explanation"
    context = context_of(feature, config)
    simulation = await simulate(client, explanation.text, windows, config, context)
    chance = None
    # Not after answers that were paid for and of no use. A dry run has no answers, and prices the chance line too.
    if other is not None and (simulation.windows or not simulation.tokens):
        chance = await simulate(client, other.text, windows, config, context)
    simulator = f"{config.model} @ {client.endpoint}"
    score = score_of(feature, simulator, simulation, chance, config, context.prompt_hash)
    return score if table is None else with_lookup(score, simulation.windows, table, config)


async def simulate(
    client: Client,
    explanation_text: str,
    windows: Sequence[Exemplar],
    config: ScoringConfig,
    context: CallContext,
) -> Simulation:
    """Ask about windows batch by batch, until all are done or the interval decides what `config` asks.

    A bad answer loses the windows of its batch only.

    Args:
        client: The simulator.
        explanation_text: All that it is told of the feature.
        windows: Of one feature.
        config: Method and settings.
        context: For the ledger.

    Raises:
        BudgetExceededError: the next batch does not fit; those before it are in the cache.
        LLMUnavailableError: the endpoint is dead.
    """
    total = Simulation()
    for batch in batches_of(windows, config.calls_windows):
        total += await _ask(client, explanation_text, batch, config, context)
        if decided(total.windows, config):
            break
    return total


async def _ask(
    client: Client,
    explanation_text: str,
    batch: Sequence[Exemplar],
    config: ScoringConfig,
    context: CallContext,
) -> Simulation:
    """Ask once about the windows of `batch`."""
    units = units_of(batch, config)
    request = make_request(client.endpoint, explanation_text, units, config)
    try:
        answered = await client.ask(request, context, lambda text: _parse(text, units, config))
        predicted = _parse(answered.answer.text, units, config)
    except BadAnswerError as error:
        return Simulation(failures=(error,), n_failed=len(batch), tokens=error.tokens)
    return Simulation(tuple(map(Simulated, units, predicted)), tokens=answered.answer.tokens)


def decided(windows: Sequence[Simulated], config: ScoringConfig) -> bool:
    """Whether the interval is as narrow as asked, or beside the score that matters."""
    if len(windows) < MIN_BEFORE_STOP or (config.stop_width is None and config.decide_at is None):
        return False
    interval = agreement(windows, draws=config.draws, seed=config.seed).interval
    if isinstance(interval, Undefined):
        return False
    low, high = interval
    narrow = config.stop_width is not None and high - low <= config.stop_width
    beside = config.decide_at is not None and not low <= config.decide_at <= high
    return narrow or beside


def make_request(
    endpoint: str, explanation_text: str, units: Sequence[Units], config: ScoringConfig
) -> LLMRequest:
    """What is sent about some windows; pure."""
    rendered = load_template(STAGE, config.template_name).render(
        explanation=plain([explanation_text]), **_values(units, config)
    )
    return LLMRequest(
        model=config.model,
        endpoint=endpoint,
        system=rendered.system,
        prompt=rendered.prompt,
        temperature=config.temperature,
        max_tokens=_answer_room(units, config) + config.extra_tokens,
        json_schema=ACTIVE_SCHEMA if _names_only(config) else None,
    )


def context_of(feature: FeatureId, config: ScoringConfig) -> CallContext:
    """For the ledger."""
    return CallContext(STAGE, load_template(STAGE, config.template_name).prompt_hash, feature)


def _values(units: Sequence[Units], config: ScoringConfig) -> dict[str, object]:
    """What the template is filled with, besides the explanation."""
    match config.method:
        case "token":
            (window,) = units
            return {"tokens": json.dumps(window.texts, ensure_ascii=False)}
        case "segment":
            lettered = list(zip(LETTERS, (window.texts for window in units), strict=False))
            return {"texts": lettered, "form": _form(config)}
        case "detection" | "fuzzing":
            return {"texts": list(zip(LETTERS, (window.texts[0] for window in units), strict=False))}
        case "pooled":
            raise AssertionError("pooled prompts are made by pool_scorer.py")


def _form(config: ScoringConfig) -> str:
    """What an answer looks like, in the template's words."""
    return f"{config.answers} {'graded' if config.graded else 'binary'}"


def _answer_room(units: Sequence[Units], config: ScoringConfig) -> int:
    """Tokens that the longest answer of the right form needs, generously: the worst case is reserved."""
    n_units = sum(len(window.texts) for window in units)
    if config.method == "token":
        # Each token comes back, in pieces at worst, between brackets, quotes and a comma.
        return 32 + sum(8 + len(text.encode()) for window in units for text in window.texts)
    if config.method == "segment":
        return 32 + n_units * _ROOM[_form(config)] + 4 * len(units)
    return 32 + n_units * 6


def _parse(answer: str, units: Sequence[Units], config: ScoringConfig) -> list[tuple[float, ...]]:
    """Predictions by window."""
    if config.method == "token":
        (window,) = units
        return [parse_ratings(answer, tokens=window.texts)]
    if config.method == "segment" and config.answers == "list":
        sizes = {letter: len(window.texts) for letter, window in zip(LETTERS, units, strict=False)}
        return parse_listed(answer, sizes=sizes, highest=10 if config.graded else 1)
    labels = _labels(units, config)
    flat = (parse_active if _names_only(config) else parse_graded)(answer, labels=labels)
    predicted: list[tuple[float, ...]] = []
    first = 0
    for window in units:
        predicted.append(tuple(map(float, flat[first : first + len(window.texts)])))
        first += len(window.texts)
    return predicted


def _names_only(config: ScoringConfig) -> bool:
    """Whether an answer is a list of labels and nothing else."""
    return config.method in {"detection", "fuzzing"} or (
        config.method == "segment" and not config.graded and config.answers == "active"
    )


def _labels(units: Sequence[Units], config: ScoringConfig) -> list[str]:
    """What each unit is called in prompt and answer: `A1`, `A2`, `B1`, ..., or `A`, `B`, ... for whole windows."""
    if config.method != "segment":
        return list(LETTERS[: len(units)])
    return [
        f"{letter}{number}"
        for letter, window in zip(LETTERS, units, strict=False)
        for number in range(1, len(window.texts) + 1)
    ]


def _rank(exemplar: Exemplar) -> bytes:
    """Rank of a window: a hash of where it lies, which knows nothing of the feature."""
    key = f"{exemplar.window.document_id}/{exemplar.window.start}"
    return hashlib.blake2b(key.encode(), digest_size=8).digest()

"""Asking a simulator, which sees an explanation and texts and nothing else."""

import hashlib
import json
import string
from collections.abc import Sequence
from dataclasses import dataclass

from safesail.autointerp.score import agreement
from safesail.autointerp.scoring_config import ScoringConfig
from safesail.autointerp.units import Simulated, Units, units_of
from safesail.domain.ids import FeatureId
from safesail.domain.records import Exemplar, Failed
from safesail.domain.undefined import Undefined
from safesail.errors import BadAnswerError
from safesail.llm.metered import MeteredClient
from safesail.llm.types import CallContext, LLMRequest
from safesail.prompting.marking import plain
from safesail.prompting.parse import ACTIVE_SCHEMA, parse_active, parse_graded, parse_listed, parse_ratings
from safesail.prompting.templates import load_template

STAGE = "simulate"
_ROOM = {"active graded": 8, "active binary": 6, "list graded": 4, "list binary": 3}
"""Tokens that one segment takes in an answer at most, by the answer's form: two letters or digits of its name each
one token, quotes, colon, rating and comma."""

MIN_BEFORE_STOP = 10
"""Windows that are asked about before an interval may stop it: resamples of a few windows agree by luck."""

LETTERS = string.ascii_uppercase
"""Names of the windows in a prompt."""


@dataclass(frozen=True)
class Simulation:
    """All that a simulator said of one explanation."""

    windows: tuple[Simulated, ...]
    failures: tuple[Failed, ...]
    """One a batch whose answer could not be used."""

    n_failed: int
    """Windows in those batches."""

    tokens: int
    """Billed for all answers, those from the cache as they were billed then."""


def batches_of(windows: Sequence[Exemplar], size: int) -> list[list[Exemplar]]:
    """Windows in batches of at most `size`, all about as large, in an order that tells nothing.

    The first n windows have their share of every kind, whatever n, so that asking may stop after any batch. The
    order depends on the windows alone, not on the order in which they come.
    """
    by_kind: dict[str, list[Exemplar]] = {}
    for exemplar in sorted(windows, key=_place):
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
    return [sorted(mixed[a:b], key=_place) for a, b in zip(starts, stops, strict=True)] if mixed else []


async def simulate(
    client: MeteredClient,
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
    total = Simulation((), (), 0, 0)
    for batch in batches_of(windows, config.calls_windows):
        total = _added(total, await _ask(client, explanation_text, batch, config, context))
        if _decided(total.windows, config):
            break
    return total


async def _ask(
    client: MeteredClient,
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
        return _lost(batch, error)
    return Simulation(tuple(map(Simulated, units, predicted)), (), 0, answered.answer.tokens)


def _added(a: Simulation, b: Simulation) -> Simulation:
    return Simulation(
        a.windows + b.windows, a.failures + b.failures, a.n_failed + b.n_failed, a.tokens + b.tokens
    )


def _decided(windows: Sequence[Simulated], config: ScoringConfig) -> bool:
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


def _lost(batch: Sequence[Exemplar], error: BadAnswerError) -> Simulation:
    failure = Failed(batch[0].feature, STAGE, type(error).__name__, str(error))
    return Simulation((), (failure,), len(batch), error.tokens)


def _place(exemplar: Exemplar) -> bytes:
    """Rank of a window: a hash of where it lies, which knows nothing of the feature."""
    key = f"{exemplar.window.document_id}/{exemplar.window.start}"
    return hashlib.blake2b(key.encode(), digest_size=8).digest()

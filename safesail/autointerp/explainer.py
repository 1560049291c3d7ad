"""Asking an explainer what one feature stands for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from safesail.autointerp.clients import Client
from safesail.autointerp.config import SEVERAL, ExplainConfig
from safesail.concepts.taxonomy import taxonomy
from safesail.domain.ids import FeatureId
from safesail.domain.records import Exemplar, Explanation, Failed
from safesail.errors import BadAnswerError
from safesail.llm.types import CallContext, LLMRequest
from safesail.metrics.quantiles import levels
from safesail.prompting.marking import crop, marked, plain
from safesail.prompting.parse import (
    EXPLANATION_SCHEMA,
    ParsedExplanation,
    parse_explanation,
    parse_explanations,
    parse_sentence,
)
from safesail.prompting.templates import Rendered, load_template

N_LEVELS = 10
STAGE = "explain"


async def explain(
    client: Client,
    feature: FeatureId,
    windows: Sequence[Exemplar],
    config: ExplainConfig,
    *,
    q999: float,
    hint: str | None = None,
) -> Explanation | Failed:
    """Ask once. A bad answer becomes `Failed`; whatever else goes wrong is raised.

    Args:
        client: The explainer.
        feature: The feature.
        windows: Windows of the `train` split: those in which it fires, the most telling first, and controls.
        config: What is shown and asked.
        q999: Activation that counts as strength 10: the feature's Q(0.999).
        hint: What the explainer is told beforehand, e.g. the concept that nominated the feature.
            None, the default, lets it find out by itself.

    Raises:
        BudgetExceededError: nothing was sent.
        LLMUnavailableError: the endpoint is dead.
    """
    _check_shown(feature, windows)
    request = make_request(client.endpoint, windows, config, q999=q999, hint=hint)

    def parse(text: str) -> list[ParsedExplanation | BadAnswerError]:
        return [read_answer(text, config)]

    return (await _ask(client, request, [feature], config.template_name, parse))[0]


@dataclass(frozen=True)
class Shown:
    """What an explainer is shown of one feature."""

    feature: FeatureId
    windows: Sequence[Exemplar]
    """Of the `train` split: those in which it fires, the most telling first, and controls."""

    q999: float
    """Activation that counts as strength 10."""

    hint: str | None = None


async def explain_several(
    client: Client, shown: Sequence[Shown], config: ExplainConfig
) -> list[Explanation | Failed]:
    """Ask once about several features, in order. A bad answer fails all of them, a bad item of it its own.

    Raises:
        BudgetExceededError: nothing was sent.
        LLMUnavailableError: the endpoint is dead.
    """
    request = make_several(client.endpoint, shown, config)
    allowed = taxonomy().explained_tags() if config.asks_tags else ()

    def parse(text: str) -> list[ParsedExplanation | BadAnswerError]:
        return parse_explanations(text, n=len(shown), tags=allowed, max_words=2 * config.max_words)

    return await _ask(client, request, [of.feature for of in shown], SEVERAL, parse)


def make_several(endpoint: str, shown: Sequence[Shown], config: ExplainConfig) -> LLMRequest:
    """What is sent to `endpoint` for several features; pure."""
    for of in shown:
        _check_shown(of.feature, of.windows)
    rendered = load_template(STAGE, SEVERAL).render(
        features=[_texts(of.windows, config, q999=of.q999, hint=of.hint) for of in shown],
        tags=taxonomy().explained_tags() if config.asks_tags else (),
        max_words=config.max_words,
    )
    return _request(endpoint, rendered, config, len(shown))


async def _ask(
    client: Client,
    request: LLMRequest,
    features: Sequence[FeatureId],
    template: str,
    parse: Callable[[str], list[ParsedExplanation | BadAnswerError]],
) -> list[Explanation | Failed]:
    explainer = f"{request.model} @ {request.endpoint}"
    prompt_hash = load_template(STAGE, template).prompt_hash
    several = template == SEVERAL
    context = CallContext(
        STAGE, prompt_hash, None if several else features[0], tuple(features) if several else ()
    )
    try:
        answered = await client.ask(request, context, parse)
        answers = parse(answered.answer.text)
    except BadAnswerError as error:
        answers = [error] * len(features)
    return [
        Failed(feature, type(said).__name__, str(said), explainer, prompt_hash)
        if isinstance(said, BadAnswerError)
        else Explanation(feature, said.text, said.tags, explainer, prompt_hash, said.confidence)
        for feature, said in zip(features, answers, strict=True)
    ]


def _check_shown(feature: FeatureId, windows: Sequence[Exemplar]) -> None:
    assert all(e.window.split == "train" for e in windows), "explainer shown held-out windows"
    assert all(e.feature == feature for e in windows), "windows of another feature"
    if not any(e.kind == "active" for e in windows):
        raise ValueError(f"{feature}: an explanation needs at least one window in which the feature fires")


def make_request(
    endpoint: str,
    windows: Sequence[Exemplar],
    config: ExplainConfig,
    *,
    q999: float,
    hint: str | None = None,
) -> LLMRequest:
    """What is sent to `endpoint` for a feature, of whose windows `config` says how many are shown; pure."""
    rendered = load_template(STAGE, config.template_name).render(
        **_texts(windows, config, q999=q999, hint=hint),
        tags=taxonomy().explained_tags() if config.asks_tags else (),
        max_words=config.max_words,
    )
    request = _request(endpoint, rendered, config, 1)
    return replace(request, json_schema=EXPLANATION_SCHEMA if config.asks_tags else None)


def _request(endpoint: str, rendered: Rendered, config: ExplainConfig, n_features: int) -> LLMRequest:
    return LLMRequest(
        model=config.model,
        endpoint=endpoint,
        system=rendered.system,
        prompt=rendered.prompt,
        temperature=config.temperature,
        max_tokens=config.max_tokens * n_features,
    )


def _texts(
    windows: Sequence[Exemplar], config: ExplainConfig, *, q999: float, hint: str | None
) -> dict[str, object]:
    """What a prompt shows of one feature."""
    active = [e for e in windows if e.kind == "active"]
    if config.order == "strongest":
        active.sort(key=lambda e: -max(e.activations))
    controls = [e for e in windows if e.kind != "active"]
    return {
        "active": [_shown(e, q999, config) for e in active[: config.n_active]],
        "controls": [_silent(e, config) for e in _spread(controls)[: config.n_controls]],
        "hint": None if hint is None else plain([hint]),
    }


def read_answer(text: str, config: ExplainConfig) -> ParsedExplanation:
    """Read what came back.

    Raises:
        BadAnswerError: it has not the form asked for.
    """
    if config.answer == "text":
        return parse_sentence(text, max_words=2 * config.max_words)
    allowed = taxonomy().explained_tags() if config.asks_tags else ()
    return parse_explanation(text, tags=allowed, max_words=2 * config.max_words)


def _shown(exemplar: Exemplar, q999: float, config: ExplainConfig) -> str:
    start, stop = crop(exemplar.activations, config.tokens_before, config.tokens_after)
    strengths = levels(np.array(exemplar.activations[start:stop], float), N_LEVELS, q999)
    return marked(exemplar.window.tokens[start:stop], strengths.tolist(), with_level=True)


def _silent(exemplar: Exemplar, config: ExplainConfig) -> str:
    n_shown = config.tokens_before + 1 + config.tokens_after
    return plain(exemplar.window.tokens[:n_shown])


def _spread(controls: Sequence[Exemplar]) -> list[Exemplar]:
    """Controls with the kinds taking turns, so that a cut leaves some of each."""
    queues = [[e for e in controls if e.kind == kind] for kind in dict.fromkeys(e.kind for e in controls)]
    longest = max(map(len, queues), default=0)
    return [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]

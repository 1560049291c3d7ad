"""Asking an explainer what one feature stands for."""

from collections.abc import Sequence

import numpy as np

from safesail.autointerp.clients import Client
from safesail.autointerp.config import ExplainConfig
from safesail.concepts.taxonomy import taxonomy
from safesail.domain.ids import FeatureId
from safesail.domain.records import Exemplar, Explanation, Failed
from safesail.errors import BadAnswerError
from safesail.llm.types import CallContext, LLMRequest
from safesail.metrics.quantiles import levels
from safesail.prompting.marking import crop, marked, plain
from safesail.prompting.parse import EXPLANATION_SCHEMA, ParsedExplanation, parse_explanation, parse_sentence
from safesail.prompting.templates import load_template

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
    assert all(e.window.split == "train" for e in windows), "explainer shown held-out windows"
    assert all(e.feature == feature for e in windows), "windows of another feature"
    if not any(e.kind == "active" for e in windows):
        raise ValueError(f"{feature}: an explanation needs at least one window in which the feature fires")
    request = make_request(client.endpoint, windows, config, q999=q999, hint=hint)
    explainer = f"{request.model} @ {request.endpoint}"
    prompt_hash = load_template(STAGE, config.template_name).prompt_hash

    def parse(text: str) -> ParsedExplanation:
        return read_answer(text, config)

    try:
        answered = await client.ask(request, CallContext(STAGE, prompt_hash, feature), parse)
        parsed = parse(answered.answer.text)
    except BadAnswerError as error:
        return Failed(feature, type(error).__name__, str(error), explainer, prompt_hash)
    return Explanation(feature, parsed.text, parsed.tags, explainer, prompt_hash, parsed.confidence)


def make_request(
    endpoint: str,
    windows: Sequence[Exemplar],
    config: ExplainConfig,
    *,
    q999: float,
    hint: str | None = None,
) -> LLMRequest:
    """What is sent to `endpoint` for a feature, of whose windows `config` says how many are shown; pure."""
    active = [e for e in windows if e.kind == "active"]
    controls = [e for e in windows if e.kind != "active"]
    rendered = load_template(STAGE, config.template_name).render(
        active=[_shown(e, q999, config) for e in active[: config.n_active]],
        controls=[_silent(e, config) for e in _spread(controls)[: config.n_controls]],
        hint=None if hint is None else plain([hint]),
        tags=taxonomy().explained_tags() if config.asks_tags else (),
        max_words=config.max_words,
    )
    return LLMRequest(
        model=config.model,
        endpoint=endpoint,
        system=rendered.system,
        prompt=rendered.prompt,
        temperature=config.temperature,
        max_tokens=config.max_tokens,
        json_schema=EXPLANATION_SCHEMA if config.asks_tags else None,
    )


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

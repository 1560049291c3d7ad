"""Scoring one explanation."""

from collections.abc import Sequence

import numpy as np

from safesail.autointerp.score import Agreement, agreement, defined
from safesail.autointerp.scoring_config import ScoringConfig
from safesail.autointerp.simulator import STAGE, Simulation, context_of, simulate
from safesail.domain.ids import FeatureId
from safesail.domain.records import Exemplar, Explanation, Failed, Score
from safesail.domain.undefined import Undefined
from safesail.llm.metered import MeteredClient
from safesail.store.explanations import DetailedScore, FailedScore

MIN_ANSWERED = 0.5
"""A score over a smaller share of its windows would be one of the windows that a model likes to answer."""


async def score_feature(
    client: MeteredClient,
    explanation: Explanation,
    windows: Sequence[Exemplar],
    config: ScoringConfig,
    *,
    other: Explanation | None,
) -> Score | Failed:
    """Score `explanation` on held-out windows of its feature.

    Args:
        client: The simulator.
        explanation: What is tested.
        windows: Windows of the `test` split, active ones and controls.
        config: Method and settings.
        other: Another feature's explanation, which gives the chance line on the same windows; None: no line.

    Returns:
        A score, whose value may be undefined with its reason; `Failed` where nothing could be asked.

    Raises:
        BudgetExceededError: the next call does not fit; what was answered before is in the cache.
        LLMUnavailableError: the endpoint is dead.
    """
    assert all(e.window.split == "test" for e in windows), "a score needs held-out windows"
    assert all(e.feature == explanation.feature for e in windows), "windows of another feature"
    assert other is None or other.feature != explanation.feature, "chance needs another feature's explanation"
    context = context_of(explanation.feature, config)
    simulator = f"{config.model} @ {client.endpoint}"
    simulation = await simulate(client, explanation.text, windows, config, context)
    if not simulation.windows:
        error, message = _failure(simulation)
        return FailedScore(
            explanation.feature, STAGE, error, message, config.label, simulator, context.prompt_hash,
            simulation.tokens,
        )  # fmt: skip
    found = agreement(simulation.windows, draws=config.draws, seed=config.seed)
    value, reason = _verdict(found, simulation)
    low, high = found.interval if value is not None and isinstance(found.interval, tuple) else (None, None)
    return DetailedScore(
        feature=explanation.feature,
        method=config.label,
        value=value,
        low=low,
        high=high,
        chance=None if other is None else await _chance(client, explanation, other, windows, config),
        n_units=found.n_units,
        n_windows=found.n_windows,
        reason=reason,
        simulator=simulator,
        prompt_hash=context.prompt_hash,
        auc=defined(found.auc),
        balanced_accuracy=defined(found.balanced_accuracy),
        tokens=simulation.tokens,
    )


def chance_partner(features: Sequence[FeatureId], seed: int) -> dict[FeatureId, FeatureId]:
    """For every feature another one, each taken once: a derangement, one cycle in random order.

    Empty for fewer than two features.

    Raises:
        ValueError: a feature is named twice.
    """
    if len(set(features)) != len(features):
        raise ValueError("features must differ from each other")
    if len(features) < 2:
        return {}
    # Sorted first: the partner must not depend on the order in which features come.
    ordered = sorted(features)
    order = np.random.default_rng(seed).permutation(len(ordered))
    following = np.roll(order, -1)
    return {ordered[a]: ordered[b] for a, b in zip(order.tolist(), following.tolist(), strict=True)}


async def _chance(
    client: MeteredClient,
    explanation: Explanation,
    other: Explanation,
    windows: Sequence[Exemplar],
    config: ScoringConfig,
) -> float | None:
    """The other explanation's correlation on the same windows; None where it is undefined or failed."""
    simulation = await simulate(client, other.text, windows, config, context_of(explanation.feature, config))
    if not simulation.windows:
        return None
    return _verdict(agreement(simulation.windows, draws=1, seed=config.seed), simulation)[0]


def _verdict(found: Agreement, simulation: Simulation) -> tuple[float | None, str | None]:
    """The score, or None and why there is none."""
    n_asked = found.n_windows + simulation.n_failed
    if found.n_windows < MIN_ANSWERED * n_asked:
        first = simulation.failures[0]
        return (
            None,
            f"only {found.n_windows} of {n_asked} windows were answered; {first.error}: {first.message}",
        )
    if isinstance(found.pearson, Undefined):
        return None, found.pearson.reason
    return found.pearson, None


def _failure(simulation: Simulation) -> tuple[str, str]:
    """Why nothing was answered: (class, message)."""
    if not simulation.failures:
        return "NoWindows", "the store holds no held-out window of this feature"
    return simulation.failures[0].error, simulation.failures[0].message

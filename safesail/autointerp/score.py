"""How well predictions agree with the truth, and the score that this makes. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from jaxtyping import Float

from safesail.autointerp.config import ScoringConfig
from safesail.autointerp.units import Simulated, Simulation, looked_up
from safesail.domain.ids import FeatureId
from safesail.domain.records import Score
from safesail.domain.undefined import Undefined
from safesail.metrics.correlation import (
    auc,
    balanced_accuracy,
    gain_interval,
    pearson,
    pearson_interval,
    window_sums,
)
from safesail.store.token_table import Table

Column = Float[np.ndarray, " n_units"]

MIN_ANSWERED = 0.5
"""A score over a smaller share of its windows would be one of the windows that a model likes to answer."""


@dataclass(frozen=True)
class Agreement:
    """Figures over all units of all windows, pooled."""

    pearson: float | Undefined
    interval: tuple[float, float] | Undefined
    """95 % bootstrap interval of it, over windows."""

    auc: float | Undefined
    """Chance that an active unit is rated above a silent one."""

    balanced_accuracy: float | Undefined
    """Of "rated above 0"."""

    n_units: int
    n_windows: int


def agreement(windows: Sequence[Simulated], *, draws: int, seed: int) -> Agreement:
    """Compare what was predicted of each window with what is true of it.

    Correlated over all units at once, not window by window: a window without activity has no correlation,
    and is as telling as any other.
    """
    sides = _sides(windows)
    true = np.concatenate([t for t, _ in sides]) if sides else np.zeros(0)
    predicted = np.concatenate([p for _, p in sides]) if sides else np.zeros(0)
    active = np.array([a for w in windows for a in w.units.active], bool)
    value = pearson(true, predicted)
    return Agreement(
        pearson=value,
        interval=value if isinstance(value, Undefined) else pearson_interval(window_sums(sides), draws, seed),
        auc=auc(active, predicted),
        balanced_accuracy=balanced_accuracy(active, predicted > 0),
        n_units=true.size,
        n_windows=len(windows),
    )


def correlation(windows: Sequence[Simulated]) -> float | Undefined:
    """Pearson correlation of what was predicted with what is true, over all units of all windows."""
    true = np.fromiter(chain.from_iterable(w.units.true for w in windows), float)
    return pearson(true, np.fromiter(chain.from_iterable(w.predicted for w in windows), float))


def _sides(windows: Sequence[Simulated]) -> list[tuple[Column, Column]]:
    """What is true and what was predicted of each window's units."""
    return [(np.array(w.units.true, float), np.array(w.predicted, float)) for w in windows]


def score_of(
    feature: FeatureId,
    simulator: str,
    simulation: Simulation,
    chance: Simulation | None,
    config: ScoringConfig,
    prompt_hash: str,
) -> Score:
    """What a simulation of a feature's explanation amounts to.

    Args:
        feature: The feature.
        simulator: Model and endpoint.
        simulation: What was said of the windows by its explanation.
        chance: The same by another feature's explanation; None: not measured.
        config: Method and settings.
        prompt_hash: Of the simulator's template.

    Returns:
        A score, whose value may be undefined with its reason; with an error where nothing was answered.
    """
    bare = Score(feature, config.label, simulator, None, tokens=simulation.tokens, prompt_hash=prompt_hash)
    if not simulation.windows:
        error, reason = "NoWindows", "the store holds no held-out window of this feature"
        if simulation.failures:
            error, reason = type(simulation.failures[0]).__name__, str(simulation.failures[0])
        return replace(bare, error=error, reason=reason)
    figures = agreement(simulation.windows, draws=config.draws, seed=config.seed)
    value, reason = _verdict(figures, simulation)
    low, high = (
        figures.interval if value is not None and isinstance(figures.interval, tuple) else (None, None)
    )
    return replace(
        bare,
        value=value,
        low=low,
        high=high,
        chance=_chance(chance, config),
        auc=_defined(figures.auc),
        balanced_accuracy=_defined(figures.balanced_accuracy),
        n_units=figures.n_units,
        n_windows=figures.n_windows,
        reason=reason,
    )


def with_lookup(score: Score, windows: Sequence[Simulated], table: Table, config: ScoringConfig) -> Score:
    """A score with that of a look-up on the same units, and by how much the explanation's is larger.

    Args:
        score: As `score_of` gives it.
        windows: What was said by the explanation.
        table: Mean activation by token, fitted on train windows.
        config: Method and settings.
    """
    other = [Simulated(w.units, looked_up(w.units, table)) for w in windows]
    lookup = correlation(other)
    if isinstance(lookup, Undefined) or score.value is None:
        return replace(score, lookup=_defined(lookup))
    both = [window_sums(_sides(of)) for of in (windows, other)]
    interval = gain_interval(*both, draws=config.draws, seed=config.seed)
    low, high = (None, None) if isinstance(interval, Undefined) else interval
    return replace(score, lookup=lookup, gain_low=low, gain_high=high)


def _chance(simulation: Simulation | None, config: ScoringConfig) -> float | None:
    if simulation is None or not simulation.windows:
        return None
    return _verdict(agreement(simulation.windows, draws=1, seed=config.seed), simulation)[0]


def _verdict(figures: Agreement, simulation: Simulation) -> tuple[float | None, str | None]:
    """The score, or None and why there is none."""
    n_asked = figures.n_windows + simulation.n_failed
    if figures.n_windows < MIN_ANSWERED * n_asked:
        error = simulation.failures[0]
        return (
            None,
            f"only {figures.n_windows} of {n_asked} windows were answered; {type(error).__name__}: {error}",
        )
    if isinstance(figures.pearson, Undefined):
        return None, figures.pearson.reason
    return figures.pearson, None


def _defined(figure: float | Undefined) -> float | None:
    """The figure, or None where it is undefined."""
    return None if isinstance(figure, Undefined) else figure

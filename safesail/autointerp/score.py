"""How well predictions agree with the truth. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from safesail.autointerp.units import Simulated
from safesail.domain.undefined import Undefined
from safesail.metrics.correlation import auc, balanced_accuracy, pearson, pearson_interval, window_sums


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
    sides = [(np.array(w.units.true, float), np.array(w.predicted, float)) for w in windows]
    true = np.concatenate([t for t, _ in sides]) if sides else np.zeros(0)
    predicted = np.concatenate([p for _, p in sides]) if sides else np.zeros(0)
    active = np.array([a for w in windows for a in w.units.active], bool)
    correlation = pearson(true, predicted)
    return Agreement(
        pearson=correlation,
        interval=correlation
        if isinstance(correlation, Undefined)
        else pearson_interval(window_sums(sides), draws, seed),
        auc=auc(active, predicted),
        balanced_accuracy=balanced_accuracy(active, predicted > 0),
        n_units=true.size,
        n_windows=len(windows),
    )


def defined(figure: float | Undefined) -> float | None:
    """The figure, or None where it is undefined."""
    return None if isinstance(figure, Undefined) else figure

"""Means over real tasks and rank correlations over SAEs, with intervals. Numbers only.

Intervals draw clusters of tasks with replacement (tasks whose labels mean nearly the same are one cluster); those of
rank correlations draw SAEs as well.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from tests.benchmarks.real_readouts import SaeOnTexts
from tests.benchmarks.real_texts import Task

DRAWS, SEED = 2000, 0
KINDS = ("prompts", "written", "constructed")


def subsets(tasks: Sequence[Task]) -> dict[str, Bool[np.ndarray, " n_tasks"]]:
    """Tasks by half, all of them, and those of each kind of text."""
    halves = {half: np.array([t.half == half for t in tasks]) for half in ("choose", "report")}
    kinds = {kind: np.array([t.kind == kind for t in tasks]) for kind in KINDS}
    return {**halves, "all": np.ones(len(tasks), bool), **kinds}


def cluster_weights(tasks: Sequence[Task]) -> Float[np.ndarray, "draws n_tasks"]:
    """How often each task counts when clusters are drawn with replacement."""
    names = sorted({t.cluster for t in tasks})
    drawn = np.random.default_rng(SEED).multinomial(len(names), np.full(len(names), 1 / len(names)), DRAWS)
    return drawn[:, [names.index(t.cluster) for t in tasks]].astype(float)


def mean_row(
    auc: Float[np.ndarray, " n_tasks"], own: Bool[np.ndarray, " n_tasks"], weights: np.ndarray
) -> list[float]:
    """Mean and 95 % interval."""
    drawn = weights[:, own]
    means = (drawn @ auc[own])[drawn.sum(axis=1) > 0] / drawn.sum(axis=1)[drawn.sum(axis=1) > 0]
    return [round(float(v), 3) for v in (auc[own].mean(), *np.quantile(means, (0.025, 0.975)))]


def table(saes: Sequence[SaeOnTexts], tasks: Sequence[Task]) -> dict[str, Any]:
    """Mean AUC of each readout of each SAE on each subset, and its gain over today's rule."""
    weights, kept = cluster_weights(tasks), subsets(tasks)
    result: dict[str, Any] = {}
    every = [*saes, _mean_of(saes)]
    for sae in every:
        rows = {
            name: {s: mean_row(auc, own, weights) for s, own in kept.items()} for name, auc in sae.auc.items()
        }
        gain = sae.auc["readout"] - sae.auc["today's rule"]
        rows["readout above today's rule"] = {s: mean_row(gain, own, weights) for s, own in kept.items()}
        result[sae.sae_id] = rows
    return result


def _mean_of(saes: Sequence[SaeOnTexts]) -> SaeOnTexts:
    auc = {name: np.mean([sae.auc[name] for sae in saes], axis=0) for name in saes[0].auc}
    return SaeOnTexts("mean over SAEs", "", -1, {}, auc)


def ranking(saes: Sequence[SaeOnTexts], tasks: Sequence[Task], readout: str = "readout") -> dict[str, Any]:
    """Spearman of every figure with a readout's real AUC, on each subset: between SAEs, within layers; regret."""
    weights, kept = cluster_weights(tasks), subsets(tasks)
    auc = np.stack([sae.auc[readout] for sae in saes])
    draws = np.random.default_rng(SEED).integers(0, len(saes), (DRAWS, len(saes)))
    result: dict[str, Any] = {}
    for name, own in kept.items():
        truth = auc[:, own].mean(axis=1)
        drawn = (weights[:, own] @ auc[:, own].T) / np.maximum(
            weights[:, own].sum(axis=1, keepdims=True), 1e-9
        )
        result[name] = {
            figure: _verdict(np.array([sae.figures[figure] for sae in saes]), truth, drawn, draws, saes)
            for figure in saes[0].figures
        }
        result[name]["a random choice"] = {
            "spearman": 0.0,
            "regret": round(float(truth.max() - truth.mean()), 3),
        }
    return result


def _verdict(
    figure: np.ndarray, truth: np.ndarray, drawn: np.ndarray, draws: np.ndarray, saes: Sequence[SaeOnTexts]
) -> dict[str, Any]:
    bounds = np.nanquantile(
        _spearman(figure[draws], np.take_along_axis(drawn, draws, axis=1)), (0.025, 0.975)
    )
    picked = int(figure.argmax())
    hooks = {(sae.layer, sae.hook) for sae in saes}
    within = [
        _spearman(figure[own], truth[own]) for hook in hooks
        if (own := np.array([(s.layer, s.hook) == hook for s in saes])).sum() > 2
    ]  # fmt: skip
    tops = [max(own, key=lambda i: figure[i]) for hook in hooks
            if (own := [i for i, s in enumerate(saes) if (s.layer, s.hook) == hook])]  # fmt: skip
    between = _spearman(figure[tops], truth[tops])
    return {
        "spearman": _rounded(_spearman(figure, truth)), "interval": [_rounded(b) for b in bounds],
        "within a hook": _rounded(float(np.mean(within))) if within else None,
        "between hooks, best of each": _rounded(between),
        "regret": round(float(truth.max() - truth[picked]), 3), "picks": saes[picked].sae_id,
    }  # fmt: skip


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Along the last axis; NaN where either never varies."""
    x, y = (rankdata(of, axis=-1) for of in (a, b))
    x, y = (of - of.mean(axis=-1, keepdims=True) for of in (x, y))
    norm = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    return np.where(norm > 0, (x * y).sum(axis=-1) / np.where(norm > 0, norm, 1), np.nan)


def _rounded(value: float | np.ndarray) -> float | None:
    return None if np.isnan(value) else round(float(value), 2)

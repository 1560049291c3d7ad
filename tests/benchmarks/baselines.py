"""What users look at instead of a selection figure, from how features act on both sides of concept pairs."""

import numpy as np
from jaxtyping import Bool, Float, Int, Real

Side = Real[np.ndarray, "n_pairs d_sae"]
"""One side of every pair: whether each feature fires on the text, or how strongly, in [0, 1]."""


def effect_sizes(pos: Side, neg: Side) -> Float[np.ndarray, " d_sae"]:
    """Cohen's d of every feature, texts with the concept against texts without; its sign left out."""
    spread = np.sqrt((pos.var(axis=0) + neg.var(axis=0)) / 2)
    return np.abs(pos.mean(axis=0) - neg.mean(axis=0)) / np.maximum(spread, 0.05)


def probe_accuracy(pos: Side, neg: Side, train: Bool[np.ndarray, " n_pairs"]) -> float:
    """Texts with the concept against texts without: ridge regression on the features, held-out accuracy."""
    sides = [side.astype(np.float32) for side in (pos, neg)]
    seen, unseen = (np.concatenate([side[of] for side in sides]) for of in (train, ~train))
    labels, truth = (np.repeat([1.0, -1.0], len(x) // 2).astype(np.float32) for x in (seen, unseen))
    mean = seen.mean(axis=0)
    kernel = (seen - mean) @ (seen - mean).T + 10 * np.eye(len(seen), dtype=np.float32)
    weights = (seen - mean).T @ np.linalg.solve(kernel, labels)
    return float(np.mean(((unseen - mean) @ weights > 0) == (truth > 0)))


def contrast_baselines(pos: Side, neg: Side, train: Bool[np.ndarray, " n_pairs"]) -> dict[str, float]:
    """Figures of one SAE on one set of pairs."""
    effect = effect_sizes(pos, neg)
    return {
        "cohen's d, best feature": float(effect.max()),
        "cohen's d, mean of top 20": float(np.sort(effect)[-20:].mean()),
        "linear probe": probe_accuracy(pos, neg, train),
    }


def sparse_probe(pos: Side, neg: Side, concept: Int[np.ndarray, " n_pairs"], k: int = 5) -> float:
    """By concept, the `k` features of largest mean difference on every other pair: the AUC of their sum on the rest."""
    found: list[float] = []
    train = alternate(concept)
    for number in np.unique(concept):
        seen, unseen = ((concept == number) & of for of in (train, ~train))
        gap = pos[seen].mean(axis=0) - neg[seen].mean(axis=0)
        best = np.argsort(-np.abs(gap), kind="stable")[:k]
        own, other = (side[unseen][:, best] @ np.sign(gap[best]) for side in (pos, neg))
        found.append(float(np.mean((own[:, None] > other) + (own[:, None] == other) / 2)))
    return float(np.mean(found))


def alternate(concept: Int[np.ndarray, " n_pairs"]) -> Bool[np.ndarray, " n_pairs"]:
    """Every other pair of each concept, its first one included."""
    train = np.zeros(len(concept), bool)
    for number in np.unique(concept):
        train[np.flatnonzero(concept == number)[::2]] = True
    return train

"""One SAE on the concept pairs and on real labelled texts, from cached activations: what each readout separates.

The readouts and figures are the selection stage's own functions; the baselines are what users look at instead.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32
from scipy.sparse import csr_array
from scipy.stats import rankdata

from safesail.metrics.contrast import MEASURES, Contrast, contrast, one_sided
from safesail.sae.encode import Spread
from safesail.selection.batches import TokenPair
from safesail.selection.config import SelectionConfig
from safesail.selection.core import concept_rng
from safesail.selection.parts import Part, Tally
from safesail.selection.readouts import SaeReader
from safesail.selection.texts import PairTexts
from tests.benchmarks.baselines import alternate, contrast_baselines, sparse_probe
from tests.benchmarks.real_texts import Task
from tests.benchmarks.text_activations import TextActs

Dense = Float32[np.ndarray, "n_texts d_sae"]
NEGATIVES = 400
"""Texts of other domains that the probe is trained on, beside the pairs."""


@dataclass(frozen=True)
class Pairs:
    """The concept pairs as rows q+, q-, q+, q-, ..., and each concept's rows."""

    pairs: tuple[TokenPair, ...]
    concepts: tuple[str, ...]
    """By number."""

    domains: Mapping[str, str]

    def rows(self, number: int) -> np.ndarray:
        """Rows of a concept."""
        own = [i for i, pair in enumerate(self.pairs) if pair.concept == number]
        return np.array([row for i in own for row in (2 * i, 2 * i + 1)])


@dataclass(frozen=True)
class SaeOnTexts:
    """What one SAE gave."""

    sae_id: str
    hook: str
    layer: int
    figures: Mapping[str, float]
    """Known before any labelled text, higher standing for better; over all concepts but the controls."""

    auc: Mapping[str, Float[np.ndarray, " n_tasks"]]
    """By readout."""


def measure(
    about: tuple[str, str, int], pairs: Pairs, on_pairs: TextActs, tasks: Sequence[Task], on_texts: TextActs,
    number: Mapping[str, int],
) -> SaeOnTexts:  # fmt: skip
    """One SAE. `about`: sae_id, hook, layer; `number`: each labelled text's row in `on_texts`."""
    config = SelectionConfig(draws=1)
    dense = on_pairs.largest.toarray()
    d_sae = dense.shape[1]
    scale = np.where(dense.max(axis=0) > 0, dense.max(axis=0), 1.0)
    parts = [_part(pairs, i, dense) for i in range(len(pairs.concepts))]
    reader = SaeReader(parts, pairs.domains, d_sae, config)
    texts = on_texts.largest.toarray()
    figures: dict[str, list[float]] = {}
    chosen: dict[str, dict[str, np.ndarray]] = {}
    for i, part in enumerate(parts):
        name = pairs.concepts[i]
        (_, readout, detections), *_ = reader.concepts(part)
        rows = dense[pairs.rows(i)]
        found = contrast(one_sided(rows[0::2] > 0, rows[1::2] > 0), draws=1, rng=concept_rng(name, 0))
        assert isinstance(found, Contrast)
        net = found.frequency - found.swapped
        order = readout.feature[readout.chosen]
        chosen[name] = {
            "today": np.flatnonzero(net >= net.max() - 1e-9), "single": order[:1], "readout": order,
        }  # fmt: skip
        if pairs.domains[name] not in config.controls:
            for figure, value in _figures(found, detections.value, detections.null).items():
                figures.setdefault(figure, []).append(value)
    auc: dict[str, list[float]] = {}
    for task in tasks:
        at = np.array([number[text] for text in (*task.pos, *task.neg)])
        is_pos = np.arange(len(at)) < len(task.pos)
        weights = probe(pairs, pairs.concepts.index(task.concept), dense / scale)
        for name, value in _task(texts[at], is_pos, chosen[task.concept], scale, weights).items():
            auc.setdefault(name, []).append(value)
    known = {name: float(np.mean(values)) for name, values in figures.items()}
    return SaeOnTexts(
        *about, known | _baselines(pairs, dense, on_pairs, config.controls),
        {name: np.array(values) for name, values in auc.items()},
    )  # fmt: skip


def _part(pairs: Pairs, number: int, dense: Dense) -> Part:
    own = [pair for pair in pairs.pairs if pair.concept == number]
    texts = PairTexts.of(own, dense[pairs.rows(number)])
    return Part((), {}, {pairs.concepts[number]: texts}, {}, Tally(), Spread(0, np.zeros(1), 0.0))


def _figures(found: Contrast, detected: float, null: float) -> dict[str, float]:
    value = dict(zip(MEASURES, found.value - found.null, strict=True))
    return {
        "detection": detected, "detection above null": detected - null,
        "pair_isolation": float(value["pair_isolation"]),
        "L_0,0.5 above null": float(value["l0_t0.5"]), "I_CDF above null": float(value["i_cdf"]),
    }  # fmt: skip


def _baselines(pairs: Pairs, dense: Dense, acts: TextActs, controls: Sequence[str]) -> dict[str, float]:
    safety = np.array([pairs.domains[pairs.concepts[p.concept]] not in controls for p in pairs.pairs])
    scaled = dense / np.maximum(dense.max(axis=0), 1e-9)
    pos, neg = scaled[0::2][safety], scaled[1::2][safety]
    concept = np.array([p.concept for p in pairs.pairs])[safety]
    return {
        "variance explained": 1 - acts.fvu,
        "L0, fewer is better": -acts.l0,
        "dead share, fewer is better": -float((dense == 0).all(axis=0).mean()),
        **contrast_baselines(pos, neg, alternate(concept)),
        "sparse probe": sparse_probe(pos, neg, concept),
        **ce_bench(acts.mean, np.repeat(safety, 2)),
    }


def ce_bench(mean: csr_array, kept: Bool[np.ndarray, " n_texts"]) -> dict[str, float]:
    """CE-Bench's scores (arXiv 2509.00691) on our pairs: maxima over features of z-scored differences, averaged.

    With V the mean activation over a text's tokens, and I over both texts of a pair: contrastive max_j z(|V+ - V-|),
    independence max_j z(|I - mean over pairs of I|), interpretability max_j z of their sum; z across features.
    """
    table = mean.toarray()[kept].astype(np.float64)
    contrastive = np.abs(table[0::2] - table[1::2])
    both = (table[0::2] + table[1::2]) / 2
    independence = np.abs(both - both.mean(axis=0))

    def largest(of: np.ndarray) -> float:
        return float(((of.max(axis=1) - of.mean(axis=1)) / np.maximum(of.std(axis=1), 1e-12)).mean())

    return {
        "CE-Bench contrastive": largest(contrastive),
        "CE-Bench independence": largest(independence),
        "CE-Bench interpretability": largest(contrastive + independence),
    }


def probe(pairs: Pairs, number: int, scaled: Dense) -> Float[np.ndarray, " d_sae"]:
    """Ridge regression on all features: q+ against q- and texts of other domains, both sides weighing the same."""
    own = pairs.rows(number)
    domain = pairs.domains[pairs.concepts[number]]
    others = [
        row for i, p in enumerate(pairs.pairs) if pairs.domains[pairs.concepts[p.concept]] != domain
        for row in (2 * i, 2 * i + 1)
    ]  # fmt: skip
    drawn = np.random.default_rng(number).permutation(others)[:NEGATIVES]
    x = np.concatenate([scaled[own[0::2]], scaled[own[1::2]], scaled[drawn]]).astype(np.float64)
    n = len(own) // 2
    # q+ weigh a half, q- a quarter and the others a quarter.
    weight = np.sqrt(np.repeat([0.5 / n, 0.25 / n, 0.25 / len(drawn)], [n, n, len(drawn)]))[:, None]
    label = np.repeat([1.0, -1.0], [n, n + len(drawn)])[:, None]
    x = x - (weight**2 * x).sum(axis=0)
    kernel = (weight * x) @ (weight * x).T
    kernel += 0.1 * np.trace(kernel) / len(kernel) * np.eye(len(kernel))
    return ((weight * x).T @ np.linalg.solve(kernel, weight * label))[:, 0]


def _task(
    values: Dense, is_pos: Bool[np.ndarray, " n_texts"], chosen: Mapping[str, np.ndarray], scale: np.ndarray,
    weights: Float[np.ndarray, " d_sae"],
) -> dict[str, float]:  # fmt: skip
    live = (values > 0).any(axis=0)
    every = np.full(values.shape[1], 0.5)  # a feature that never fires says nothing
    every[live] = aucs(values[:, live], is_pos)
    readout = (values[:, chosen["readout"]] / scale[chosen["readout"]]).sum(axis=1, keepdims=True)
    single = chosen["single"]
    return {
        "random feature": float(every[live].mean()),
        "today's rule": float(every[chosen["today"]].mean()),
        "single feature": float(every[single[0]]) if single.size else 0.5,
        "readout": float(aucs(readout, is_pos)[0]),
        "linear probe": float(aucs((values / scale) @ weights[:, None], is_pos)[0]),
        "hindsight": float(every.max()),
    }


def aucs(values: np.ndarray, is_pos: Bool[np.ndarray, " n_texts"]) -> Float[np.ndarray, " n_features"]:
    """AUC of each column, ties counting one half."""
    n_pos, n_neg = int(is_pos.sum()), int((~is_pos).sum())
    ranks = rankdata(values, axis=0)[is_pos].sum(axis=0)
    return (ranks - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg)

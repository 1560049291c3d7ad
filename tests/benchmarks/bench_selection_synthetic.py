"""Does the selection figure rank SAEs by how well they isolate concepts? A planted grid, where that is known.

Every SAE of the grid is a table of firing chances, per text, of each feature for each kind of text, so its
true quality is computed and not estimated. What a figure sees is 16 sampled pairs a concept. Sparsity moves the
whole table, as it does in trained SAEs: a sparse SAE has no feature for many concepts, or one for several of
them at once; a dense one splits concepts over features and fires on much else.

    python -m tests.benchmarks.bench_selection_synthetic
"""

import json
import sys
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Bool, Float

from safesail.metrics.contrast import MEASURES, Contrast, contrast, one_sided
from safesail.metrics.correlation import bootstrap_interval, spearman
from safesail.metrics.readout import Detection, Maxima, Negatives, Wide, read_concept
from safesail.selection.readouts import WIDE_TEXTS
from tests.benchmarks.baselines import contrast_baselines

N_CONCEPTS, N_PAIRS, D_SAE = 48, 16, 1024
L0S = (2, 4, 8, 16, 32, 64, 128, 256, 400)
SEEDS = range(8)
STATES = ("absent", "clean", "split", "merged", "rare", "noisy")


@dataclass(frozen=True)
class PlantedSae:
    """Chances that each feature fires on one text."""

    l0: int
    on_concept: Float[np.ndarray, "n_concepts d_sae"]
    on_ordinary: Float[np.ndarray, " d_sae"]


def plant(l0: int, seed: int) -> PlantedSae:
    """An SAE of the grid: a background that is dense as `l0` says, and one state for each concept."""
    rng = np.random.default_rng((seed, l0))
    weights = rng.lognormal(0, 1.5, D_SAE)
    on_token = np.clip(weights * l0 / weights.sum(), 0, 0.9)
    ordinary = 1 - (1 - on_token) ** 12  # some feature of a text's 12 tokens
    # Texts with a concept are a little livelier or duller overall, by chance of the SAE: a trap.
    lively = np.clip(ordinary * (1 + rng.normal(0.02, 0.04)), 0, 1)
    concepts = np.tile(lively, (N_CONCEPTS, 1))
    free = list(rng.permutation(D_SAE))
    crowd = np.log2(l0) / np.log2(L0S[-1])  # 0 sparse .. 1 dense
    skill = rng.lognormal(0, 0.5)  # SAEs of one sparsity are not all alike
    clean = skill * (0.2 + 2 * np.exp(-(((crowd - 0.55) / 0.25) ** 2)))
    odds = np.array([2 * (1 - crowd) ** 2, clean, 1.5 * crowd**2, 0.8 * (1 - crowd), 0.3, 1.5 * crowd**2])
    merged: int | None = None
    for concept in range(N_CONCEPTS):
        state = rng.choice(STATES, p=odds / odds.sum())
        hit = float(rng.uniform(0.75, 0.98))
        if state == "absent":
            continue
        parts = int(rng.integers(2, 5)) if state == "split" else 1
        for _ in range(parts):
            feature = merged if state == "merged" and merged is not None else int(free.pop())
            noise = float(rng.uniform(0.05, 0.5)) if state == "noisy" else 0.01
            if feature != merged:
                ordinary[feature], concepts[:, feature] = noise, noise
            strength = {"split": hit / parts, "rare": hit * 0.35}.get(str(state), hit)
            concepts[concept, feature] = 1 - (1 - noise) * (1 - strength)
            if state == "merged":
                merged = None if merged is not None else feature
    return PlantedSae(l0, concepts, ordinary)


def true_quality(sae: PlantedSae) -> float:
    """How well single features isolate the concepts: the best feature's hit rate minus its false rate, averaged.

    False alarms are counted on texts without the concept, half of them ordinary, half with another concept.
    """
    others = (sae.on_concept.sum(axis=0) - sae.on_concept) / (N_CONCEPTS - 1)
    return float((sae.on_concept - (others + sae.on_ordinary) / 2).max(axis=1).mean())


def true_count(sae: PlantedSae) -> float:
    """Features a concept whose hit rate minus false rate on ordinary texts is at least one half."""
    return float((sae.on_concept - sae.on_ordinary >= 0.5).sum(axis=1).mean())


Families = Float[np.ndarray, "n_families n_sparsities"]
Tables = tuple[Bool[np.ndarray, "n_concepts n_pairs d_sae"], Bool[np.ndarray, "n_concepts n_pairs d_sae"]]


def sample(sae: PlantedSae, seed: int) -> Tables:
    """Firing on sampled pairs. The twins share much of their text, so much of what fires fires on both."""
    rng = np.random.default_rng((seed, sae.l0, 1))
    shape = (N_CONCEPTS, N_PAIRS, D_SAE)
    common = rng.random(shape, np.float32)
    own_pos, own_neg = rng.random(shape, np.float32), rng.random(shape, np.float32)
    shared = rng.random(shape, np.float32) < 0.5
    pos = np.where(shared, common, own_pos) < sae.on_concept[:, None, :]
    neg = np.where(shared, common, own_neg) < sae.on_ordinary
    return pos, neg


def our_figures(tables: Tables) -> dict[str, float]:
    """What the selection stage reports, averaged over concepts."""
    found = [
        contrast(one_sided(pos, neg), draws=1, rng=np.random.default_rng(0))
        for pos, neg in zip(*tables, strict=True)
    ]
    known = [c for c in found if isinstance(c, Contrast)]
    value, null = (np.mean([getattr(c, side) for c in known], axis=0) for side in ("value", "null"))
    figures = detection(tables)
    for name in ("pair_isolation", "i_cdf", "l0_t0.5", "l0_t0.7"):
        i = MEASURES.index(name)
        figures[name] = float(value[i])
        if name != "pair_isolation":
            figures[f"{name}_above_null"] = float(value[i] - null[i])
    figures["i_cdf_share_above_null"] = figures["i_cdf_above_null"] / figures["i_cdf"]
    return figures


def detection(tables: Tables) -> dict[str, float]:
    """`detection` and what is above its null; every other concept counts as another domain."""
    rows = np.concatenate(tables, axis=1).reshape(-1, D_SAE)
    concept = np.repeat(np.arange(N_CONCEPTS), 2 * N_PAIRS)
    drawn = np.random.default_rng(0).permutation(len(rows))[:WIDE_TEXTS]
    halves = [(concept[own], Negatives.of(_maxima(rows[own]))) for own in (drawn[0::2], drawn[1::2])]
    found: list[Detection] = []
    for number, (pos, neg) in enumerate(zip(*tables, strict=True)):
        wide = Wide(*(negatives.only(of != number) for of, negatives in halves))
        sides = _maxima(pos), _maxima(neg)
        rng = np.random.default_rng(number)
        _, detected = read_concept(*sides, wide, np.ones(D_SAE), limit=5, rng=rng)
        assert detected is not None
        found.append(detected)
    above = np.mean([d.pos.mean() - d.null.mean() for d in found])
    return {"detection": float(np.mean([d.pos.mean() for d in found])), "detection_above_null": float(above)}


def _maxima(fires: Bool[np.ndarray, "n_texts d_sae"]) -> Maxima:
    text, feature = np.nonzero(fires)
    return Maxima(
        fires.shape[0], fires.shape[1], text, feature.astype(np.int32), np.ones(text.size, np.float32)
    )


def baselines(sae: PlantedSae, tables: Tables, seed: int) -> dict[str, float]:
    """What users look at instead."""
    rng = np.random.default_rng((seed, sae.l0, 2))
    pos, neg = (side.reshape(-1, D_SAE) for side in tables)
    dead = ~(pos.any(axis=0) | neg.any(axis=0))
    train = np.tile(np.arange(N_PAIRS) % 2 == 0, N_CONCEPTS)  # even pairs of every concept
    return {
        "l0": float(sae.l0),
        # A stand-in: reconstruction gets steadily better with L0, with a little scatter.
        "variance explained": float(1 - 0.7 * sae.l0**-0.3 + rng.normal(0, 0.01)),
        "dead share (fewer is better)": -float(dead.mean()),
        **contrast_baselines(pos, neg, train),
    }


@dataclass(frozen=True)
class Outcome:
    """How one figure ranks the grid."""

    figure: str
    spearman: float
    """Against the true quality, over all SAEs of the grid."""

    low: float
    high: float
    """95 % bootstrap interval over SAEs."""

    within: float
    """Mean of Spearman's correlations within each family of sparsities."""

    regret: float
    """True quality lost by picking each family's best by this figure, averaged."""

    spearman_count: float
    """Against the other truth: the number of features a concept that isolate it."""


def outcome(name: str, figure: Families, quality: Families, count: Families) -> Outcome:
    """Hold one figure against the truth; one row a family, one column a sparsity."""
    flat, truth = figure.ravel(), quality.ravel()
    bounds = bootstrap_interval(lambda i: spearman(truth[i], flat[i]), flat.size, 1000, seed=0)
    assert isinstance(bounds, tuple)
    picked = quality[np.arange(len(quality)), figure.argmax(axis=1)]
    return Outcome(
        name,
        correlation(truth, flat),
        *bounds,
        float(np.mean([correlation(q, f) for q, f in zip(quality, figure, strict=True)])),
        float(np.mean(quality.max(axis=1) - picked)),
        correlation(count.ravel(), flat),
    )


def correlation(truth: np.ndarray, figure: np.ndarray) -> float:
    """Spearman's correlation, which the grid always defines."""
    found = spearman(truth, figure)
    assert isinstance(found, float), found
    return found


def run() -> tuple[list[Outcome], dict[str, float]]:
    """Score the whole grid; the outcomes, ours first, and the mean quality by L0."""
    figures: dict[str, list[list[float]]] = {}
    quality, count = (np.zeros((len(SEEDS), len(L0S))) for _ in range(2))
    for row, seed in enumerate(SEEDS):
        for column, l0 in enumerate(L0S):
            sae = plant(l0, seed)
            tables = sample(sae, seed)
            quality[row, column], count[row, column] = true_quality(sae), true_count(sae)
            for name, figure in {**our_figures(tables), **baselines(sae, tables, seed)}.items():
                figures.setdefault(name, [[] for _ in SEEDS])[row].append(figure)
    outcomes = [outcome(name, np.array(values), quality, count) for name, values in figures.items()]
    return outcomes, {str(l0): float(q) for l0, q in zip(L0S, quality.mean(axis=0), strict=True)}


def main() -> None:
    """Print a table for people to stderr and JSON to stdout."""
    outcomes, by_l0 = run()
    lines = [f"{len(SEEDS)} families x {len(L0S)} sparsities, {N_CONCEPTS} concepts, {N_PAIRS} pairs each"]
    lines += ["true quality by L0: " + ", ".join(f"{l0}: {q:.2f}" for l0, q in by_l0.items())]
    lines += [f"{'figure':30} {'Spearman':>8} {'95 % interval':>15} {'within':>7} {'regret':>7} {'count':>7}"]
    for o in outcomes:
        bounds = f"{o.low:.2f} to {o.high:.2f}"
        lines.append(
            f"{o.figure:30} {o.spearman:8.3f} {bounds:>15} {o.within:7.3f} {o.regret:7.3f} {o.spearman_count:7.3f}"
        )
    sys.stderr.write("\n".join(lines) + "\n")
    result = {"quality_by_l0": by_l0, "outcomes": [asdict(o) for o in outcomes]}
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

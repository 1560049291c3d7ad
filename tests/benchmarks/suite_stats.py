"""Which features are tried, and figures known before against what explanation found after. Numbers only."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from safesail.domain.undefined import Undefined
from safesail.metrics.correlation import percentile_interval, spearman

Bounds = tuple[float | None, float | None]
Weights = Int[np.ndarray, "n_saes n_domains n_tried"]
"""How often each tried feature counts; 0 where a domain had fewer features to try."""


@dataclass(frozen=True)
class Option:
    """A feature that one domain would like to have explained."""

    feature: int
    concept_id: str
    frequency: float
    swapped: float
    candidate: bool


def choose(by_domain: Mapping[str, Sequence[Option]], per_domain: int) -> list[tuple[str, Option]]:
    """Domains in turn take their best feature that no other one has taken, `per_domain` times."""
    taken: set[int] = set()
    chosen: list[tuple[str, Option]] = []
    for _ in range(per_domain):
        for domain in sorted(by_domain):
            free = next((o for o in by_domain[domain] if o.feature not in taken), None)
            if free is not None:
                taken.add(free.feature)
                chosen.append((domain, free))
    return chosen


@dataclass(frozen=True)
class Tried:
    """A feature that was explained and scored, whatever came of it."""

    sae_id: str
    domain: str
    feature: int
    concept_id: str
    lift: float
    """Share of its concept's pairs in which it fires on q+ only, less that in which it fires on q- only."""

    candidate: bool
    """Whether it passes the demonstration's thresholds."""

    tags: tuple[str, ...]
    """Safety topics that the explainer read from the exemplars; it is not told the concept."""

    value: float | None
    low: float | None
    chance: float | None


@dataclass(frozen=True)
class Table:
    """All tried features by SAE, domain and turn."""

    sae_ids: tuple[str, ...]
    domains: tuple[str, ...]
    weights: Weights
    value: Float[np.ndarray, "n_saes n_domains n_tried"]
    """Simulation score; 0 for a feature that has none."""

    above: Bool[np.ndarray, "n_saes n_domains n_tried"]
    """Whether the lower end of the score's interval lies above the chance line."""

    candidate: Bool[np.ndarray, "n_saes n_domains n_tried"]
    tagged: Bool[np.ndarray, "n_saes n_domains n_tried"]


def build_table(tried: Sequence[Tried], sae_ids: Sequence[str], domains: Sequence[str]) -> Table:
    """Features in their places."""
    cells = {(s, d): [t for t in tried if (t.sae_id, t.domain) == (s, d)] for s in sae_ids for d in domains}
    shape = (len(sae_ids), len(domains), max(map(len, cells.values())))
    weights, score = np.zeros(shape, np.int64), np.zeros(shape)
    above, candidate, tagged = (np.zeros(shape, bool) for _ in range(3))
    lines = {s: chance_line([t for t in tried if t.sae_id == s]) for s in sae_ids}
    for i, sae_id in enumerate(sae_ids):
        for j, domain in enumerate(domains):
            for n, t in enumerate(cells[sae_id, domain]):
                weights[i, j, n] = 1
                candidate[i, j, n], tagged[i, j, n] = t.candidate, bool(t.tags)
                score[i, j, n] = 0.0 if t.value is None else t.value
                above[i, j, n] = is_above(t, lines[sae_id])
    return Table(tuple(sae_ids), tuple(domains), weights, score, above, candidate, tagged)


def chance_line(tried: Sequence[Tried]) -> float:
    """Mean score of the shuffled explanations of one SAE, for the features that have no line of their own."""
    known = [t.chance for t in tried if t.chance is not None]
    return float(np.mean(known)) if known else 0.0


def is_above(tried: Tried, line: float) -> bool:
    """Whether the lower end of the score's interval lies above the chance line, its own one where it has one."""
    return tried.low is not None and tried.low > (line if tried.chance is None else tried.chance)


Measure = Callable[[Table, Weights], Float[np.ndarray, "..."]]
"""From weights, draws or cells in front, to one outcome each: sums over the last two axes."""


def above_chance(table: Table, weights: Weights) -> Float[np.ndarray, "..."]:
    """Number of features above the chance line."""
    return (weights * table.above).sum(axis=(-2, -1)).astype(float)


def candidates_above_chance(table: Table, weights: Weights) -> Float[np.ndarray, "..."]:
    """Those of them that also pass the demonstration's thresholds for a concept."""
    return (weights * (table.above & table.candidate)).sum(axis=(-2, -1)).astype(float)


def tagged_above_chance(table: Table, weights: Weights) -> Float[np.ndarray, "..."]:
    """Those above the chance line whose explanation names a safety topic."""
    return (weights * (table.above & table.tagged)).sum(axis=(-2, -1)).astype(float)


def mean_score(table: Table, weights: Weights) -> Float[np.ndarray, "..."]:
    """Mean score over the features tried; one without a score adds 0."""
    return _ratio(weights * table.value, weights)


def mean_score_above(table: Table, weights: Weights) -> Float[np.ndarray, "..."]:
    """Mean score over the features above the chance line; 0 where there is none."""
    return _ratio(weights * table.above * table.value, weights * table.above)


def _ratio(top: Float[np.ndarray, "..."], bottom: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Sum over sum, over the last two axes; 0 where the lower one is 0."""
    whole = bottom.sum(axis=(-2, -1))
    return np.where(whole > 0, top.sum(axis=(-2, -1)) / np.maximum(whole, 1), 0.0)


MEASURES: Mapping[str, Measure] = {
    "above chance": above_chance,
    "mean score": mean_score,
    "mean score of those above chance": mean_score_above,
    "candidates above chance": candidates_above_chance,
    "tagged above chance": tagged_above_chance,
}


def by_sae(table: Table, measure: Measure, weights: Weights | None = None) -> Float[np.ndarray, "... n_saes"]:
    """The outcome of every SAE over all domains."""
    return measure(table, table.weights if weights is None else weights)


def by_cell(table: Table, measure: Measure) -> Float[np.ndarray, "n_saes n_domains"]:
    """The outcome of every SAE in every domain."""
    cells = [np.zeros_like(table.weights) for _ in table.domains]
    for j, cell in enumerate(cells):
        cell[:, j] = table.weights[:, j]
    return np.stack([measure(table, cell) for cell in cells], axis=1)


def resample(table: Table, draws: int, seed: int) -> Int[np.ndarray, "draws n_saes n_domains n_tried"]:
    """Weights of bootstrap draws: domains, the same for every SAE, and features within each SAE and domain."""
    rng = np.random.default_rng(seed)
    n_domains = len(table.domains)
    drawn = np.zeros((draws, *table.weights.shape), np.int64)
    for i, j in np.ndindex(table.weights.shape[:2]):
        n = int(table.weights[i, j].sum())
        if n:
            drawn[:, i, j, :n] = rng.multinomial(n, np.full(n, 1 / n), draws)
    domains = rng.multinomial(n_domains, np.full(n_domains, 1 / n_domains), draws)
    return drawn * domains[:, None, :, None]


@dataclass(frozen=True)
class Verdict:
    """How one figure, known before anything is explained, tells one outcome."""

    figure: str
    spearman: float | None
    """Over SAEs."""

    interval: Bounds
    """95 %, with SAEs, domains and features resampled."""

    interval_features: Bounds
    """95 %, with domains and features resampled and the SAEs as they are."""

    spearman_same_layer: float | None
    """Over the SAEs that differ in sparsity only."""

    spearman_cells: float | None
    """Over all pairs of SAE and domain, with the figure of that domain."""

    interval_cells: Bounds
    """95 %, with SAEs and domains resampled."""

    spearman_within_domains: float | None
    """Mean over domains of the correlation over SAEs."""

    picked: str
    regret: float
    """Outcome of the best SAE less that of the one with the highest figure, relative to the best."""

    regret_interval: Bounds
    """95 %, with domains and features resampled; the pick stays, the best is that of each draw."""


@dataclass(frozen=True)
class Outcomes:
    """One outcome of every SAE, and draws of it."""

    sae: Float[np.ndarray, " n_saes"]
    drawn: Float[np.ndarray, "draws n_saes"]
    cell: Float[np.ndarray, "n_saes n_domains"]


def outcomes(table: Table, measure: Measure, weights: Weights) -> Outcomes:
    """The outcome as found, on the resampled `weights`, and by domain."""
    return Outcomes(by_sae(table, measure), by_sae(table, measure, weights), by_cell(table, measure))


def judge(
    name: str,
    figure: Float[np.ndarray, " n_saes"],
    in_cell: Float[np.ndarray, "n_saes n_domains"],
    found: Outcomes,
    same_layer: Bool[np.ndarray, " n_saes"],
    sae_ids: Sequence[str],
) -> Verdict:
    """Hold one figure against one outcome."""
    rng = np.random.default_rng(0)
    draws, n_saes = found.drawn.shape
    saes = rng.integers(0, n_saes, (draws, n_saes))
    domains = rng.integers(0, in_cell.shape[1], (draws, in_cell.shape[1]))
    pick = int(figure.argmax())
    grids = [np.ix_(s, d) for s, d in zip(saes, domains, strict=True)]
    return Verdict(
        name,
        correlation(found.sae, figure),
        bounds([correlation(y[s], figure[s]) for y, s in zip(found.drawn, saes, strict=True)]),
        bounds([correlation(y, figure) for y in found.drawn]),
        correlation(found.sae[same_layer], figure[same_layer]),
        correlation(found.cell.ravel(), in_cell.ravel()),
        bounds([correlation(found.cell[g].ravel(), in_cell[g].ravel()) for g in grids]),
        mean_known([correlation(y, x) for y, x in zip(found.cell.T, in_cell.T, strict=True)]),
        sae_ids[pick],
        float(regret(found.sae, pick)),
        bounds(list(regret(found.drawn, pick))),
    )


def regret(outcome: Float[np.ndarray, "... n_saes"], pick: int) -> Float[np.ndarray, "..."]:
    """Share of the best SAE's outcome that the picked one misses; 0 where no SAE has any."""
    best = outcome.max(axis=-1)
    return np.where(best > 0, (best - outcome[..., pick]) / np.where(best > 0, best, 1.0), 0.0)


def random_regret(outcome: Float[np.ndarray, " n_saes"]) -> float:
    """Mean regret of a pick by lot."""
    return float(np.mean([regret(outcome, pick) for pick in range(len(outcome))]))


def reliability(table: Table, measure: Measure, *, draws: int, seed: int) -> float | None:
    """How well an outcome orders the SAEs as itself: two halves of the features, stepped up to all of them.

    Spearman and Brown's 2 r / (1 + r) of the mean correlation r between random halves. No figure can be
    expected to correlate with the outcome by more than the root of this.
    """
    rng = np.random.default_rng(seed)
    found: list[float | None] = []
    for _ in range(draws):
        half = np.argsort(rng.random(table.weights.shape), axis=-1).argsort(axis=-1) % 2 == 0
        sides = [by_sae(table, measure, table.weights * of) for of in (half, ~half)]
        found.append(correlation(*sides))
    r = mean_known(found)
    return None if r is None or r <= -1 else 2 * r / (1 + r)


def chance_spearman(n_saes: int, *, draws: int = 20_000, seed: int = 0) -> float:
    """Absolute correlation that two unrelated orders of so many SAEs exceed in 5 % of cases."""
    rng = np.random.default_rng(seed)
    order = np.arange(n_saes, dtype=float)
    return float(
        np.quantile([abs(correlation(order, rng.permutation(order)) or 0.0) for _ in range(draws)], 0.95)
    )


def correlation(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float | None:
    """Spearman's correlation; None where a side is constant."""
    found = spearman(x, y)
    return None if isinstance(found, Undefined) else found


def mean_known(values: Sequence[float | None]) -> float | None:
    """Mean of those that are defined."""
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def bounds(drawn: Sequence[float | None]) -> Bounds:
    """Central 95 % of the draws; None where fewer than half of them are defined."""
    found = percentile_interval(np.array([d for d in drawn if d is not None], float), len(drawn))
    return (None, None) if isinstance(found, Undefined) else found

"""SAEs side by side: how selections rank them, and what each one finds and misses."""

from dataclasses import dataclass

from markupsafe import Markup

from safesail.store.overview import concept_coverage
from safesail.store.selection import RANKING, SECOND, ScoredSae, ranked_saes, scope_scores
from safesail.view.charts import Axis, Dot, scatter
from safesail.view.desk import Desk

MAX_CONCEPTS = 400
"""Rows of the table of concepts."""

MEASURES = (RANKING, SECOND, "i_cdf_above_null")
MEASURE_NAMES = {
    RANKING: "detection AUC",
    SECOND: "pair isolation",
    "i_cdf_above_null": "I_CDF above null",
}


@dataclass(frozen=True)
class Plot:
    """A plot and what it shows."""

    title: str
    svg: Markup
    note: str


@dataclass(frozen=True)
class Cell:
    """What one SAE does with one concept or domain."""

    value: float | None
    null: float | None
    low: float | None
    high: float | None
    step: int
    """Of the colour scale, 0 to 10, over the whole table."""

    candidates: int | None = None
    explained: int | None = None
    best: float | None = None


@dataclass(frozen=True)
class Scope:
    """A concept or domain, over all SAEs."""

    name: str
    cells: tuple[Cell | None, ...]
    best: str | None
    """The SAE with the largest figure."""


@dataclass(frozen=True)
class SaePage:
    """The comparison."""

    ranked: tuple[ScoredSae, ...]
    measure: str
    plots: tuple[Plot, ...]
    domains: tuple[Scope, ...]
    concepts: tuple[Scope, ...]
    more_concepts: int
    """Not shown."""

    series: tuple[str, ...]
    """Hooks, by the number of their colour and shape."""


def sae_page(desk: Desk) -> SaePage:
    """Compare the SAEs of a catalog by their newest selections."""
    return desk.once("saes", lambda: _compare(desk))


def _compare(desk: Desk) -> SaePage:
    measure, ranked = _ranking(desk)
    series = tuple(sorted({sae.hook for sae in ranked}))
    saes = [sae.sae_id for sae in ranked]
    concepts = _scopes(desk, ranked, "concept", measure)
    return SaePage(
        ranked=tuple(ranked),
        measure=MEASURE_NAMES.get(measure, measure),
        plots=tuple(_plots(ranked, series, MEASURE_NAMES.get(measure, measure))),
        domains=_scopes(desk, ranked, "domain", measure),
        concepts=concepts[:MAX_CONCEPTS] if saes else (),
        more_concepts=max(0, len(concepts) - MAX_CONCEPTS),
        series=series,
    )


def _ranking(desk: Desk) -> tuple[str, list[ScoredSae]]:
    """The first measure that any SAE has a value of."""
    for measure in MEASURES:
        ranked = ranked_saes(desk.db, measure=measure)
        if any(sae.value is not None for sae in ranked):
            return measure, ranked
    return MEASURES[0], ranked_saes(desk.db)


def _plots(ranked: list[ScoredSae], series: tuple[str, ...], measure: str) -> list[Plot]:
    known = [sae for sae in ranked if sae.value is not None]
    if not known:
        return []
    best = known[0].sae_id
    plots: list[Plot] = []

    def dots(x_of: str, y_of: str = "value") -> list[Dot]:
        whole = y_of == "value"
        return [
            Dot(
                float(getattr(s, x_of)),
                float(getattr(s, y_of)),
                s.low if whole else None,
                s.high if whole else None,
                s.null_value if whole else None,
                s.sae_id,
                series.index(s.hook),
                best=s.sae_id == best,
            )
            for s in known
            if getattr(s, x_of) is not None and getattr(s, y_of) is not None
        ]

    sparse = [d for d in dots("l0") if d.x > 0]
    if sparse:
        svg = scatter(
            sparse, Axis("L0, mean active features per token", log=True), Axis(measure), joined=True
        )
        plots.append(
            Plot(
                f"{measure} by sparsity", svg, "bars: 95 % interval; crosses: null, sides of the pairs drawn"
            )
        )
    if by_layer := dots("layer"):
        svg = scatter(by_layer, Axis("layer", whole=True), Axis(measure), joined=False)
        plots.append(Plot(f"{measure} by layer and hook", svg, "early layers left, late ones right"))
    lossy = [d for d in dots("l0", "fvu") if d.x > 0]
    if lossy:
        svg = scatter(
            lossy,
            Axis("L0, mean active features per token", log=True),
            Axis("variance unexplained"),
            joined=True,
        )
        plots.append(Plot("reconstruction by sparsity", svg, "on the texts of the concept pairs"))
    return plots


def _scopes(desk: Desk, ranked: list[ScoredSae], scope: str, measure: str) -> tuple[Scope, ...]:
    """Rows of concepts or domains, a cell for every SAE; the colour scale runs over the whole table."""
    column = {sae.selection_id: number for number, sae in enumerate(ranked)}
    by_scope: dict[str, list[Cell | None]] = {}
    scores = scope_scores(desk.db, list(column), scope, measure)
    values = [value for _, _, value, *_ in scores if value is not None]
    low, high = min(values, default=0.0), max(values, default=1.0)
    for selection_id, name, value, null, at_least, at_most in scores:
        share = 0.0 if value is None or high <= low else (value - low) / (high - low)
        row = by_scope.setdefault(name, [None] * len(ranked))
        row[column[selection_id]] = Cell(value, null, at_least, at_most, round(10 * share))
    if scope == "concept":
        _add_coverage(desk, ranked, by_scope)
    return tuple(
        Scope(name, tuple(cells), _best([sae.sae_id for sae in ranked], cells))
        for name, cells in sorted(by_scope.items())
    )


def _add_coverage(desk: Desk, ranked: list[ScoredSae], by_scope: dict[str, list[Cell | None]]) -> None:
    """How many features stand for a concept in each SAE, how many of them are explained, and how well."""
    column = {sae.sae_id: number for number, sae in enumerate(ranked)}
    for concept_id, _, _, _, sae_id, candidates, explained, best in concept_coverage(desk.db):
        at = column.get(sae_id)
        cells = by_scope.get(concept_id)
        if at is None or cells is None:
            continue
        cell = cells[at] or Cell(None, None, None, None, 0)
        cells[at] = Cell(cell.value, cell.null, cell.low, cell.high, cell.step, candidates, explained, best)


def _best(saes: list[str], cells: list[Cell | None]) -> str | None:
    known = [
        (cell.value, name) for name, cell in zip(saes, cells, strict=True) if cell and cell.value is not None
    ]
    return max(known)[1] if known else None

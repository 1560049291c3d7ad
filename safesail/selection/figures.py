"""An SAE's figures by concept, by domain and over all, as rows of the store."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from safesail.domain.undefined import Undefined
from safesail.metrics.contrast import MEASURES
from safesail.metrics.correlation import percentile_interval
from safesail.selection.core import ConceptResult, Figures
from safesail.store.selection import ScoreRow

Scope = Literal["concept", "domain", "all"]


@dataclass(frozen=True)
class _Scope:
    """What figures are about."""

    kind: Scope
    scope_id: str
    results: Sequence[ConceptResult]

    def row(
        self,
        measure: str,
        value: float | None,
        bounds: tuple[float | None, float | None] = (None, None),
        *,
        null: float | None = None,
        reason: str | None = None,
    ) -> ScoreRow:
        """One figure, with why it is missing where it is."""
        above = None if value is None or null is None else value - null
        n_pairs = sum(result.n_pairs for result in self.results)
        why = reason if value is None else None
        return ScoreRow(self.kind, self.scope_id, measure, value, *bounds, null, above, n_pairs, why)


def score_rows(results: Sequence[ConceptResult], controls: Sequence[str]) -> list[ScoreRow]:
    """Every figure in every scope.

    A domain's figure is the mean of its concepts', and the overall figure the mean of all concepts' but those
    of the domains `controls`. Intervals resample pairs within each concept: they say how far the figure hangs
    on the pairs that were written, not on the concepts that were chosen.
    """
    domains = sorted({result.domain for result in results})
    scopes = [
        *(_Scope("concept", result.concept_id, [result]) for result in results),
        *(_Scope("domain", domain, [r for r in results if r.domain == domain]) for domain in domains),
        _Scope("all", "all", [r for r in results if r.domain not in controls]),
    ]
    return [row for scope in scopes for row in _scope_rows(scope)]


def _scope_rows(scope: _Scope) -> Iterator[ScoreRow]:
    """All figures over the concepts of a scope: the mean of those that define them."""
    defined = [r.figures for r in scope.results if not isinstance(r.figures, Undefined)]
    if not defined:
        reasons = [r.figures.reason for r in scope.results if isinstance(r.figures, Undefined)]
        for measure in MEASURES:
            yield scope.row(measure, None, reason=reasons[0] if reasons else "every concept is a control")
        return
    yield from _measures(scope, defined)
    value, null = (sum(side) for side in _i_cdf(defined))
    share = None if value == 0 else (value - null) / value
    yield scope.row("i_cdf_share_above_null", share, reason="no feature distinguishes any pair")
    yield scope.row("length_gap", float(np.mean([f.gaps.mean() for f in defined])))
    if scope.kind == "concept":
        yield scope.row("i_cdf_p", defined[0].p)
    else:
        adjusted = equal_length_isolation(defined)
        yield scope.row("isolation_equal_length", adjusted, reason="the lengths of the sides never differ")


def _measures(scope: _Scope, defined: Sequence[Figures]) -> Iterator[ScoreRow]:
    value, null = _mean([f.value for f in defined]), _mean([f.null for f in defined])
    value_draws = _mean([f.value_draws for f in defined])
    above_draws = _mean([f.above_draws for f in defined])
    for i, measure in enumerate(MEASURES):
        figure = float(value[i])
        yield scope.row(measure, figure, interval(value_draws[:, i], figure), null=float(null[i]))
        if measure != "isolation":  # its null is 0
            above = float(value[i] - null[i])
            yield scope.row(f"{measure}_above_null", above, interval(above_draws[:, i], above))


def interval(drawn: Float[np.ndarray, " draws"], value: float) -> tuple[float | None, float | None]:
    """95 % interval from bootstrap draws, shifted so that their mean is the figure itself.

    Counts of features over a threshold come out higher on resampled pairs, whose repeats make frequencies
    noisier; the shift takes that bias away.
    """
    found = percentile_interval(drawn - (drawn.mean() - value), drawn.size)
    return (None, None) if isinstance(found, Undefined) else found


def equal_length_isolation(defined: Sequence[Figures]) -> float | None:
    """Mean isolation where both sides had the same number of tokens; None where lengths never vary.

    Least squares with one slope on the difference of lengths and one intercept a concept.
    """
    net = [f.held_out - f.held_out.mean() for f in defined]
    gaps = [f.gaps - f.gaps.mean() for f in defined]
    varying = sum(float(g @ g) for g in gaps)
    if varying == 0:
        return None
    slope = sum(float(g @ e) for g, e in zip(gaps, net, strict=True)) / varying
    return float(np.mean([f.held_out.mean() - slope * f.gaps.mean() for f in defined]))


def _i_cdf(defined: Sequence[Figures]) -> tuple[list[float], list[float]]:
    i = MEASURES.index("i_cdf")
    return [float(f.value[i]) for f in defined], [float(f.null[i]) for f in defined]


def _mean(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.mean(arrays, axis=0, dtype=float)

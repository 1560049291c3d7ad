"""An SAE's figures by concept, by domain and over all, as rows of the store."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from operator import add
from typing import Self

import numpy as np
from jaxtyping import Float

from safesail.domain.undefined import Undefined
from safesail.metrics.contrast import MEASURES
from safesail.metrics.correlation import percentile_interval
from safesail.metrics.readout import Detection
from safesail.selection.core import ConceptResult
from safesail.store.selection import ScoreRow


@dataclass(frozen=True)
class Sums:
    """Figures added up over concepts: all that their mean and its interval need, however many there are."""

    n_concepts: int
    """Those that define figures; only they are added up."""

    n_pairs: int
    """Of all, those without figures included."""

    value: Float[np.ndarray, " n_measures"]
    null: Float[np.ndarray, " n_measures"]
    value_draws: Float[np.ndarray, "draws n_measures"]
    above_draws: Float[np.ndarray, "draws n_measures"]
    gap: float
    """Of mean tokens(q+) - tokens(q-)."""

    gap_squares: float
    """Of squared deviations from a concept's mean gap, over pairs."""

    gap_net: float
    """Of those deviations times the deviation of the pair's share of `pair_isolation`."""

    reasons: tuple[str, ...]
    """Why the first concept without figures has none; empty where all have."""

    @classmethod
    def nothing(cls, draws: int, n_pairs: int = 0, reasons: tuple[str, ...] = ()) -> Self:
        """Of no concept, or of one without figures."""
        line, table = np.zeros(len(MEASURES)), np.zeros((draws, len(MEASURES)))
        return cls(0, n_pairs, line, line, table, table, 0.0, 0.0, 0.0, reasons)

    @classmethod
    def of(cls, result: ConceptResult, draws: int) -> Self:
        """One concept's."""
        contrast = result.contrast
        if isinstance(contrast, Undefined):
            return cls.nothing(draws, result.n_pairs, (contrast.reason,))
        gaps = result.gaps - result.gaps.mean()
        return cls(
            n_concepts=1,
            n_pairs=result.n_pairs,
            value=contrast.value,
            null=contrast.null,
            value_draws=contrast.value_draws,
            above_draws=contrast.above_draws,
            gap=float(result.gaps.mean()),
            gap_squares=float(gaps @ gaps),
            gap_net=float(gaps @ (contrast.held_out - contrast.held_out.mean())),
            reasons=(),
        )

    def __add__(self, other: Self) -> Self:
        added = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return replace(self, **added | {"reasons": added["reasons"][:1]})


@dataclass(frozen=True)
class Detections:
    """What readouts detect, added up over concepts."""

    n_concepts: int
    n_pairs: int
    value: float
    null: float
    value_draws: Float[np.ndarray, " draws"]
    above_draws: Float[np.ndarray, " draws"]
    reasons: tuple[str, ...]
    """Why the first concept without a figure has none; empty where all have."""

    @classmethod
    def nothing(cls, draws: int, n_pairs: int = 0, reasons: tuple[str, ...] = ()) -> Self:
        """Of no concept, or of one without a figure."""
        return cls(0, n_pairs, 0.0, 0.0, np.zeros(draws), np.zeros(draws), reasons)

    @classmethod
    def of(cls, detection: Detection | str, n_pairs: int, draws: int, rng: np.random.Generator) -> Self:
        """One concept's, with its resamples of the pairs."""
        if isinstance(detection, str):
            return cls.nothing(draws, n_pairs, (detection,))
        weights = rng.multinomial(n_pairs, np.full(n_pairs, 1 / n_pairs), draws) / n_pairs
        drawn = weights @ detection.pos
        means = float(detection.pos.mean()), float(detection.null.mean())
        return cls(1, n_pairs, *means, drawn, drawn - weights @ detection.null, ())

    def __add__(self, other: Self) -> Self:
        added = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return replace(self, **added | {"reasons": added["reasons"][:1]})

    def rows(self, scope: str, scope_id: str) -> list[ScoreRow]:
        """Of a concept, or the mean over concepts."""
        row = _Row(scope, scope_id, self.n_pairs)
        if not self.n_concepts:
            return [row("detection", None, reason=[*self.reasons, "every concept is a control"][0])]
        n = self.n_concepts
        value, null = self.value / n, self.null / n
        return [
            row("detection", value, interval(self.value_draws / n, value), null=null),
            row("detection_above_null", value - null, interval(self.above_draws / n, value - null)),
        ]


def concept_rows(result: ConceptResult, sums: Sums) -> list[ScoreRow]:
    """Every figure of one concept, from `Sums.of` it."""
    row = _Row("concept", result.concept_id, sums.n_pairs)
    rows = list(_rows(row, sums))
    return rows if result.p is None else [*rows, row("i_cdf_p", result.p)]


def group_rows(domains: Mapping[str, Sums], controls: Sequence[str]) -> list[ScoreRow]:
    """Every figure of every domain and over all.

    A domain's figure is the mean of its concepts', and the overall figure the mean of all concepts' but those
    of the domains `controls`. Intervals resample pairs within each concept: they say how far the figure hangs
    on the pairs that were written, not on the concepts that were chosen.
    """
    counted = [sums for domain, sums in domains.items() if domain not in controls]
    scopes = [("domain", domain, domains[domain]) for domain in sorted(domains)]
    rows: list[ScoreRow] = []
    for scope, scope_id, sums in [*scopes, ("all", "all", reduce(add, counted, Sums.nothing(1)))]:
        row = _Row(scope, scope_id, sums.n_pairs)
        rows += _rows(row, sums)
        if sums.n_concepts:
            adjusted = equal_length_pair_isolation(sums)
            reason = "the lengths of the sides never differ"
            rows.append(row("pair_isolation_equal_length", adjusted, reason=reason))
    return rows


def detection_rows(domains: Mapping[str, Detections], controls: Sequence[str]) -> list[ScoreRow]:
    """`detection` of every domain and over all, as `group_rows`."""
    counted = [own for domain, own in domains.items() if domain not in controls]
    rows = [row for domain in sorted(domains) for row in domains[domain].rows("domain", domain)]
    return [*rows, *reduce(add, counted, Detections.nothing(1)).rows("all", "all")]


@dataclass(frozen=True)
class _Row:
    """Makes the rows of one scope."""

    scope: str
    scope_id: str
    n_pairs: int

    def __call__(
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
        why = reason if value is None else None
        return ScoreRow(self.scope, self.scope_id, measure, value, *bounds, null, above, self.n_pairs, why)


def _rows(row: _Row, sums: Sums) -> Iterator[ScoreRow]:
    """Figures over the concepts of a scope: the mean of those that define them."""
    n = sums.n_concepts
    if not n:
        reason = [*sums.reasons, "every concept is a control"][0]
        yield from (row(measure, None, reason=reason) for measure in MEASURES)
        return
    value, null = sums.value / n, sums.null / n
    for i, measure in enumerate(MEASURES):
        figure = float(value[i])
        yield row(measure, figure, interval(sums.value_draws[:, i] / n, figure), null=float(null[i]))
        if measure != "pair_isolation":  # its null is 0
            above = float(value[i] - null[i])
            yield row(f"{measure}_above_null", above, interval(sums.above_draws[:, i] / n, above))
    i_cdf, i_cdf_null = (float(side[MEASURES.index("i_cdf")]) for side in (sums.value, sums.null))
    share = None if i_cdf == 0 else (i_cdf - i_cdf_null) / i_cdf
    yield row("i_cdf_share_above_null", share, reason="no feature distinguishes any pair")
    yield row("length_gap", sums.gap / n)


def interval(drawn: Float[np.ndarray, " draws"], value: float) -> tuple[float | None, float | None]:
    """95 % interval from bootstrap draws, shifted so that their mean is the figure itself.

    Counts of features over a threshold come out higher on resampled pairs, whose repeats make frequencies
    noisier; the shift takes that bias away.
    """
    bounds = percentile_interval(drawn - (drawn.mean() - value), drawn.size)
    return (None, None) if isinstance(bounds, Undefined) else bounds


def equal_length_pair_isolation(sums: Sums) -> float | None:
    """Mean `pair_isolation` where both sides had the same number of tokens; None where lengths never vary.

    Least squares with one slope on the difference of lengths and one intercept per concept.
    """
    if sums.gap_squares == 0:
        return None
    slope = sums.gap_net / sums.gap_squares
    return (float(sums.value[MEASURES.index("pair_isolation")]) - slope * sums.gap) / sums.n_concepts

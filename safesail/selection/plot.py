"""The paper's figure: interpretability and reconstruction error against L0."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safesail.errors import ConfigError
from safesail.selection.result import RankedSae, SelectionResult
from safesail.store.selection import RANKING

_FORMATS = (".png", ".svg", ".pdf")


def plot(result: SelectionResult, path: Path, *, measure: str = RANKING) -> None:
    """Draw a figure over all concepts, with its interval, and FVU against L0; the best SAE is marked.

    SAEs of one hook and width make one curve.

    Args:
        result: A selection.
        path: PNG, SVG or PDF file to write.
        measure: Name of the figure, e.g. `"i_cdf_above_null"`.

    Raises:
        ConfigError: another file ending, or no SAE has that figure.
    """
    if path.suffix.lower() not in _FORMATS:
        raise ConfigError(f"{path}: a plot is written as {', '.join(_FORMATS)}")
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = [r for r in result.ranked if r.sae.l0 and _value(r, measure) is not None]
    if not shown:
        raise ConfigError(f"no SAE has the figure {measure!r} over all concepts; nothing to draw")
    figure, left = plt.subplots(figsize=(7, 4.5), layout="constrained")
    right = left.twinx()
    for hook, curve in _curves(shown):
        _draw(left, right, hook, curve, measure)
    _mark_peak(left, max(shown, key=lambda r: _value(r, measure) or 0.0), measure)
    left.set(xscale="log", xlabel="L0 (mean active features a token)", ylabel=measure.replace("_", " "))
    right.set_ylabel("fraction of variance unexplained (dashed)")
    left.legend(loc="best", fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _curves(shown: Sequence[RankedSae]) -> list[tuple[str, list[RankedSae]]]:
    names = {r.sae.sae_id: f"{r.sae.hook}, {r.sae.d_sae} features" for r in shown}
    return [
        (name, sorted((r for r in shown if names[r.sae.sae_id] == name), key=lambda r: r.sae.l0 or 0.0))
        for name in sorted(set(names.values()))
    ]


def _draw(left: Any, right: Any, name: str, curve: Sequence[RankedSae], measure: str) -> None:
    l0s = [r.sae.l0 for r in curve]
    rows = [r.overall[measure] for r in curve]
    # Intervals of a figure may not hold it exactly; a bar never points inwards.
    bars = [
        [max(0.0, (row.value or 0.0) - row.low) if row.low is not None else 0.0 for row in rows],
        [max(0.0, row.high - (row.value or 0.0)) if row.high is not None else 0.0 for row in rows],
    ]
    drawn = left.errorbar(l0s, [row.value for row in rows], yerr=bars, marker="o", capsize=3, label=name)
    with_fvu = [r for r in curve if r.sae.fvu is not None]
    color = drawn.lines[0].get_color()
    right.plot(
        [r.sae.l0 for r in with_fvu], [r.sae.fvu for r in with_fvu], "--", marker=".", color=color, alpha=0.6
    )


def _mark_peak(axes: Any, best: RankedSae, measure: str) -> None:
    axes.plot(
        [best.sae.l0], [_value(best, measure)], marker="*", markersize=16, color="black", linestyle="none"
    )
    axes.annotate(
        best.sae.sae_id,
        (best.sae.l0, _value(best, measure)),
        textcoords="offset points",
        xytext=(8, 8),
        fontsize="small",
    )


def _value(ranked: RankedSae, measure: str) -> float | None:
    row = ranked.overall.get(measure)
    return None if row is None else row.value

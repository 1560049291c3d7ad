"""The paper's figure: interpretability and reconstruction error against L0."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safesail.errors import ConfigError
from safesail.files import check_plot, whole_file
from safesail.selection.result import RankedSae, SelectionResult
from safesail.store.selection import RANKING


def draw(result: SelectionResult, path: Path, *, measure: str = RANKING) -> None:
    """Draw a figure over all concepts, with its interval, and FVU below it, both against L0; the best SAE is marked.

    SAEs of one hook and width make one curve.

    Args:
        result: A selection.
        path: PNG, SVG or PDF file to write.
        measure: Name of the figure, e.g. `"i_cdf_above_null"`.

    Raises:
        ConfigError: another file ending, or no SAE has that figure.
        DataError: the file cannot be written.
    """
    check_plot(path)
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullLocator

    shown = [r for r in result.ranked if r.sae.l0 and _value(r, measure) is not None]
    if not shown:
        raise ConfigError(f"no SAE has the figure {measure!r} over all concepts; nothing to draw")
    figure, (upper, lower) = plt.subplots(
        2, 1, sharex=True, figsize=(7, 6), height_ratios=(2, 1), layout="constrained"
    )
    for name, curve in _curves(shown):
        _draw_curve(upper, lower, name, curve, measure)
    best = max(shown, key=lambda r: _value(r, measure) or 0.0)
    upper.plot(
        best.sae.l0, _value(best, measure), "k*", markersize=14, label=f"best: {best.sae.sae_id}", zorder=3
    )
    label = measure.replace("_", " ")
    upper.set(title=f"How well single features isolate concepts, {len(shown)} SAEs", ylabel=label)
    lower.set(ylabel="variance unexplained", xlabel="L0 (mean active features per token)", xscale="log")
    l0s = sorted({float(f"{r.sae.l0:.3g}") for r in shown})
    ticks = [x for i, x in enumerate(l0s) if i == 0 or x >= 1.2 * l0s[i - 1]]
    lower.set_xticks(ticks, [f"{x:g}" for x in ticks])
    lower.xaxis.set_minor_locator(NullLocator())
    for axes in (upper, lower):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*upper.get_legend_handles_labels(), loc="outside lower center", fontsize="small", ncols=2)
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=150, format=path.suffix[1:].lower())
    plt.close(figure)


def _curves(shown: Sequence[RankedSae]) -> list[tuple[str, list[RankedSae]]]:
    by_name: dict[str, list[RankedSae]] = {}
    for ranked in sorted(shown, key=lambda r: (r.sae.layer or 0, r.sae.hook, r.sae.l0 or 0.0)):
        by_name.setdefault(f"{ranked.sae.hook}, {ranked.sae.d_sae} features", []).append(ranked)
    return list(by_name.items())


def _draw_curve(upper: Any, lower: Any, name: str, curve: Sequence[RankedSae], measure: str) -> None:
    rows = [r.overall[measure] for r in curve]
    values = [row.value or 0.0 for row in rows]
    # Intervals of a figure may not hold it exactly; a bar never points inwards.
    bars = [
        [max(0.0, v - row.low) if row.low is not None else 0.0 for v, row in zip(values, rows, strict=True)],
        [
            max(0.0, row.high - v) if row.high is not None else 0.0
            for v, row in zip(values, rows, strict=True)
        ],
    ]
    drawn = upper.errorbar([r.sae.l0 for r in curve], values, yerr=bars, marker="o", capsize=3, label=name)
    fvus = [(r.sae.l0, r.sae.fvu) for r in curve if r.sae.fvu is not None]
    if fvus:
        lower.plot(*zip(*fvus, strict=True), marker="o", color=drawn.lines[0].get_color())


def _value(ranked: RankedSae, measure: str) -> float | None:
    row = ranked.overall.get(measure)
    return None if row is None else row.value

"""A selection drawn: the ranking figure and reconstruction error against sparsity, and the figure by layer and hook."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safesail.errors import ConfigError
from safesail.files import check_plot, whole_file
from safesail.selection.result import RankedSae, SelectionResult
from safesail.store.selection import RANKING, SECOND


def draw(result: SelectionResult, path: Path, *, measure: str = RANKING) -> None:
    """Draw a figure over all concepts against L0, FVU below it, and the same figure by layer; the best SAE is marked.

    SAEs of one hook and width make one curve over L0. By layer, SAEs of one site (residual stream, MLP output) make
    one curve through the best of each layer. A cross is the figure's null, a bar its interval.

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

    if measure == RANKING and all(_value(r, measure) is None for r in result.ranked):
        measure = SECOND  # what ranks where there is no text of another domain
    shown = [r for r in result.ranked if r.sae.l0 and _value(r, measure) is not None]
    if not shown:
        raise ConfigError(f"no SAE has the figure {measure!r} over all concepts; nothing to draw")
    figure, axes = plt.subplot_mosaic(
        [["sparsity", "layer"], ["fvu", "layer"]], figsize=(11, 6), height_ratios=(2, 1), layout="constrained"
    )
    sparsity, layer, fvu = axes["sparsity"], axes["layer"], axes["fvu"]
    for name, curve in _by_hook(shown):
        colour = _draw_points(sparsity, [r.sae.l0 for r in curve], curve, measure, name)
        known = [(r.sae.l0, r.sae.fvu) for r in curve if r.sae.fvu is not None]
        if known:
            fvu.plot(*zip(*known, strict=True), marker="o", color=colour)
    _draw_layers(layer, shown, measure)
    best = max(shown, key=lambda r: _value(r, measure) or 0.0)
    label = f"best: {best.sae.sae_id}"
    for ax, x in ((sparsity, best.sae.l0), (layer, best.sae.layer)):
        if x is not None:
            ax.plot([x], [_value(best, measure) or 0.0], "k*", markersize=14, label=label, zorder=3)
    name = measure.replace("_", " ")
    sparsity.set(title=f"{name} by sparsity, {len(shown)} SAEs", ylabel=name)
    layer.set(title=f"{name} by layer and hook", xlabel="layer", ylabel=name)
    fvu.set(ylabel="variance unexplained", xlabel="L0 (mean active features per token)")
    _set_scales(sparsity, fvu, layer, shown)
    figure.legend(
        *sparsity.get_legend_handles_labels(), loc="outside lower center", fontsize="small", ncols=2
    )
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=150, format=path.suffix[1:].lower())
    plt.close(figure)


def _set_scales(sparsity: Any, fvu: Any, layer: Any, shown: Sequence[RankedSae]) -> None:
    from matplotlib.ticker import MaxNLocator, NullLocator

    l0s = sorted({float(f"{r.sae.l0:.3g}") for r in shown})
    ticks = [x for i, x in enumerate(l0s) if i == 0 or x >= 1.2 * l0s[i - 1]]
    for ax in (sparsity, fvu):
        ax.set_xscale("log")
        ax.set_xticks(ticks, [f"{x:g}" for x in ticks])
        ax.xaxis.set_minor_locator(NullLocator())
    layer.xaxis.set_major_locator(MaxNLocator(integer=True))
    for ax in (sparsity, fvu, layer):
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)


def _by_hook(shown: Sequence[RankedSae]) -> list[tuple[str, list[RankedSae]]]:
    by_name: dict[str, list[RankedSae]] = {}
    for ranked in sorted(shown, key=lambda r: (r.sae.layer or 0, r.sae.hook, r.sae.l0 or 0.0)):
        by_name.setdefault(f"{ranked.sae.hook}, {ranked.sae.d_sae} features", []).append(ranked)
    return list(by_name.items())


def _draw_layers(ax: Any, shown: Sequence[RankedSae], measure: str) -> None:
    """One colour a site in the layer, one point an SAE, with its k; the best of each layer are joined."""
    by_site: dict[str, list[RankedSae]] = {}
    for ranked in shown:
        if ranked.sae.layer is not None:
            by_site.setdefault(ranked.sae.hook.rpartition(".")[2], []).append(ranked)
    for site, saes in sorted(by_site.items()):
        colour = _draw_points(ax, [r.sae.layer for r in saes], saes, measure, site, joined=False)
        tops: dict[int, float] = {}
        for ranked in saes:
            assert ranked.sae.layer is not None
            tops[ranked.sae.layer] = max(tops.get(ranked.sae.layer, 0.0), _value(ranked, measure) or 0.0)
            if ranked.sae.k is not None:
                ax.annotate(
                    f"k {ranked.sae.k}", (ranked.sae.layer, _value(ranked, measure) or 0.0), xytext=(6, -2),
                    textcoords="offset points", fontsize=7,
                )  # fmt: skip
        ax.plot(*zip(*sorted(tops.items()), strict=True), color=colour, alpha=0.5)
    ax.legend(fontsize="small")


def _draw_points(
    ax: Any, x: Sequence[Any], curve: Sequence[RankedSae], measure: str, name: str, *, joined: bool = True
) -> Any:
    """Values with intervals, and nulls as crosses; gives their colour."""
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
    drawn = ax.errorbar(x, values, yerr=bars, fmt="-o" if joined else "o", capsize=3, label=name)
    colour = drawn.lines[0].get_color()
    nulls = [(at, row.null_value) for at, row in zip(x, rows, strict=True) if row.null_value]
    if nulls:
        ax.plot(*zip(*nulls, strict=True), "x", color=colour, alpha=0.6)
    return colour


def _value(ranked: RankedSae, measure: str) -> float | None:
    row = ranked.overall.get(measure)
    return None if row is None else row.value

"""Counts and score distributions per SAE, layer and domain, as tables and as a plot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safesail.concepts.taxonomy import taxonomy
from safesail.errors import NotFoundError
from safesail.files import check_plot, whole_file
from safesail.store.connection import Db
from safesail.store.overview import (
    all_tags,
    figures_by_layer,
    figures_by_sae,
    figures_by_tag,
    scores_by_layer,
    scores_by_tag,
)
from safesail.store.sql import Row


@dataclass(frozen=True)
class Figures:
    """Counts of features, and the distribution of their scores; None where there is no score."""

    features: int
    explained: int
    masked: int
    failed: int
    """Features whose every explanation failed."""

    scored: int
    undefined: int
    mean: float | None
    q10: float | None
    median: float | None
    q90: float | None
    chance: float | None
    """Mean of the chance line."""

    lookup: float | None
    """Mean score of a table token -> mean activation on the same texts."""

    beyond_lookup: int | None
    """Explanations that know more than such a table; None where none was measured."""

    below_lookup: int | None
    """Those that know less."""

    method: str | None
    """How the scores were made: method and simulator; None where there is none, or where SAEs differ in it, and then
    there is no distribution either."""

    effective: int | None
    """Features shown to do something; None where none was measured."""

    measured: int | None
    """Features whose effects are measured."""


@dataclass(frozen=True)
class Stats:
    """A catalog in numbers."""

    saes: dict[str, Figures]
    layers: dict[int | None, Figures]
    domains: dict[str, Figures]
    """By domain; a feature counts in every domain of which it has a tag."""

    tags: dict[str, int]
    """Features by tag."""


def stats(db: Db) -> Stats:
    """Count an open catalog."""
    tags = _tags(db)
    return Stats(
        saes={str(r[0]): Figures(*r[2:]) for r in figures_by_sae(db)},
        layers={r[0]: Figures(*r[1:]) for r in figures_by_layer(db)},
        domains={str(r[0]): Figures(*r[1:]) for r in figures_by_tag(db, _domains(tags))},
        tags=tags,
    )


def plot_stats(db: Db, out: Path) -> None:
    """Draw the scores' distribution by layer and by domain into the image `out`, a dot per feature.

    Raises:
        ConfigError: another file ending.
        NotFoundError: the catalog has no score.
        DataError: the file cannot be written.
    """
    check_plot(out)
    from matplotlib.figure import Figure  # half a second to import

    layers, domains = _grouped(scores_by_layer(db)), _grouped(scores_by_tag(db, _domains(_tags(db))))
    if not layers:
        raise NotFoundError("the catalog has no score to plot; run `safesail score` first")
    n, n_rows = sum(map(len, layers.values())), max(len(layers), len(domains))
    figure = Figure(figsize=(10, 1.8 + 0.35 * n_rows), layout="constrained")
    for axes, (title, by) in zip(
        figure.subplots(1, 2, sharex=True), (("layer", layers), ("domain", domains)), strict=True
    ):
        _draw_groups(axes, by, n_rows)
        axes.set(
            title=f"by {title}",
            xlabel="score",
            xlim=(min(-0.2, *(v[0] for v in layers.values())) - 0.02, 1.02),
        )
    figure.suptitle(f"Scores of {n:,} {'explanation' if n == 1 else 'explanations'}")
    with whole_file(out) as partial:
        figure.savefig(partial, dpi=120, format=out.suffix[1:].lower())


def _draw_groups(axes: Any, by: Mapping[str, Sequence[float]], n_rows: int) -> None:
    """A box per group, the first on top, with a dot per score; names and numbers of scores stand beside it."""
    for y, values in enumerate(by.values()):
        axes.boxplot(values, positions=[y], orientation="horizontal", widths=0.6, showfliers=False)
        # Dots of one score would hide each other on one line: they are spread over the height of the box.
        heights = [y + 0.25 * ((i * 0.618) % 1 - 0.5) * 2 for i in range(len(values))]
        axes.scatter(values, heights, s=9, alpha=0.5, color="C0", linewidths=0, zorder=2)
    axes.set_yticks(range(len(by)), [f"{name} ({len(values):,})" for name, values in by.items()])
    axes.set_ylim(n_rows - 0.4, -0.6)
    axes.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)


def _tags(db: Db) -> dict[str, int]:
    return {str(tag): int(n) for tag, n in all_tags(db)}


def _grouped(rows: list[Row]) -> dict[str, list[float]]:
    """Scores by group, in the order of the rows."""
    groups: dict[str, list[float]] = {}
    for group, score in rows:
        groups.setdefault("unknown" if group is None else str(group), []).append(float(score))
    return groups


def _domains(tags: dict[str, int]) -> dict[str, str]:
    """The domain of every tag; tags outside the taxonomy stand for themselves."""
    return {tag: taxonomy().domain_of(tag) or tag for tag in tags}

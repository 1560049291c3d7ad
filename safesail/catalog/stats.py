"""Counts and score distributions per SAE, layer and domain, as tables and as a plot."""

from dataclasses import dataclass
from pathlib import Path

from safesail.concepts.taxonomy import taxonomy
from safesail.errors import NotFoundError
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
    """Draw the scores' distribution by layer and by domain into the image `out`.

    Raises:
        NotFoundError: the catalog has no score.
    """
    from matplotlib.figure import Figure  # half a second to import

    layers, domains = _grouped(scores_by_layer(db)), _grouped(scores_by_tag(db, _domains(_tags(db))))
    if not layers:
        raise NotFoundError("the catalog has no score to plot; run `safesail score` first")
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    for axes, (title, by) in zip(
        figure.subplots(1, 2, sharey=True), (("layer", layers), ("domain", domains)), strict=True
    ):
        if by:
            axes.boxplot(list(by.values()), tick_labels=[f"{name}\n{len(v):,}" for name, v in by.items()])
        axes.set(title=f"by {title}", ylabel="score" if title == "layer" else "")
        axes.tick_params(axis="x", labelrotation=45 if title == "domain" else 0)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)


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

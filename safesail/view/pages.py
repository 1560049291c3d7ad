"""The pages, as HTML: what a server sends and what an export writes are made here, by the same functions."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from safesail.domain.ids import FeatureId
from safesail.errors import ConfigError
from safesail.resources import cache_dir
from safesail.view.costs import cost_page
from safesail.view.desk import Desk
from safesail.view.feature import EFFECTS, FeaturePage, feature_page
from safesail.view.landscape import FEWEST, Landscape, MapText, Vectors, project, read_texts
from safesail.view.links import Links, listing, sae_folder
from safesail.view.listing import ListQuery, list_features
from safesail.view.render import render
from safesail.view.saes import sae_page

KEPT_FILTERS = ("domain", "sae", "layer", "least", "state")
"""Of a list, what a new search keeps."""


def index_html(desk: Desk, links: Links, query: ListQuery) -> tuple[str, bool]:
    """The list of features; and whether the query could be answered: else its first page stands there, and why not."""
    error = None
    try:
        listed = list_features(desk, query)
    except ConfigError as fault:
        error = str(fault)
        listed = list_features(desk, ListQuery())
    html = render(
        "index.html",
        desk,
        links,
        page="index",
        listing=listed,
        error=error,
        kept=[(name, getattr(listed.query, name)) for name in KEPT_FILTERS],
        models=sorted({sae.model_id for sae in desk.saes}),
        legend=_legend(desk),
        note=_search_note(desk, links, query),
    )
    return html, error is None


def _legend(desk: Desk) -> str:
    t = desk.totals
    if not t.scored:
        return "No explanation of this catalog is scored."
    if not t.with_chance:
        return f"{t.scored:,} explanations are scored; no chance line was measured."
    return f"{t.above_chance:,} of {t.with_chance:,} intervals lie above the chance line."


def _search_note(desk: Desk, links: Links, query: ListQuery) -> str | None:
    if links.exported or not query.q:
        return None
    return desk.search_note


def feature_html(
    desk: Desk, links: Links, feature: FeatureId, *, near: bool = False, simulated: bool = False
) -> str:
    """The page of a feature.

    Raises:
        NotFoundError: the catalog does not have it.
    """
    shown = feature_page(desk, feature, near=near, simulated=simulated)
    return feature_as_html(desk, links, shown, shown.previous, shown.following)


def feature_as_html(
    desk: Desk, links: Links, shown: FeaturePage, before: int | None, after: int | None
) -> str:
    """A feature that was read, with the features before and after it that have a page."""
    measured = shown.statistics
    return render(
        "feature.html",
        desk,
        links,
        page="feature",
        f=shown,
        of_sae=listing(sae=shown.shown.sae_id),
        before=before,
        after=after,
        effect_names=EFFECTS,
        marks=[("Q(0.9)", measured.q90), ("Q(0.999)", measured.q999)],
    )


def saes_html(desk: Desk, links: Links) -> str:
    """SAEs side by side."""
    shown = sae_page(desk)
    ranked = {row.sae_id: row for row in shown.ranked}
    order = {row.sae_id: number for number, row in enumerate(shown.ranked)}
    rows = sorted(desk.saes, key=lambda sae: (order.get(sae.sae_id, len(order)), sae.layer or 0, sae.sae_id))
    return render(
        "saes.html",
        desk,
        links,
        page="saes",
        p=shown,
        rows=[(sae, ranked.get(sae.sae_id)) for sae in rows],
        sae_link=lambda sae_id: listing(sae=sae_id),  # pyright: ignore[reportUnknownLambdaType]
    )


def costs_html(desk: Desk, links: Links) -> str:
    """What the catalog cost."""
    return render("costs.html", desk, links, page="costs", c=cost_page(desk))


@dataclass(frozen=True)
class MapInput:
    """What a map is made of, read out of the catalog."""

    texts: list[MapText]
    n_all: int
    meaning: Vectors | None
    folder: Path


def map_input(desk: Desk) -> MapInput | None:
    """What is to be placed; None: too few explanations for a map."""
    texts = read_texts(desk.db)
    if len(texts) < FEWEST:
        return None
    vectors = desk.index.vectors
    meaning = np.asarray(vectors, np.float32) if vectors is not None and len(vectors) == len(texts) else None
    return MapInput(texts, max(len(texts), desk.index.n_texts), meaning, cache_dir() / "maps")


def make_map(given: MapInput) -> Landscape:
    """Place the explanations: seconds for thousands, and kept for the next time."""
    return project(given.texts, given.n_all, given.folder, given.meaning)


def map_html(desk: Desk, links: Links, landscape: Landscape | None, *, making: int = 0) -> str:
    """The map; or that it is being made, of so many explanations; or why there is none."""
    return render(
        "map.html",
        desk,
        links,
        page="map",
        m=landscape,
        making=making,
        feature_link=_feature_links(desk, links),
        why=f"A map needs {FEWEST} readable explanations or more; this catalog has {desk.index.n_texts:,}.",
    )


def _feature_links(desk: Desk, links: Links) -> str:
    """Where the map's points lead: a page that takes a name, or a folder for each SAE."""
    if not links.exported:
        return "/feature"
    folders = ",".join(f'"features/{sae_folder(sae.sae_id)}"' for sae in desk.saes)
    return f"[{folders}]"


def error_html(desk: Desk, links: Links, title: str, message: str) -> str:
    """What went wrong, in one line."""
    return render("error.html", desk, links, page="", title=title, message=message)

"""The list of features: what a query asks for, and the page of rows, counts and links that answers it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from safesail.catalog.search import RankedTexts
from safesail.errors import ConfigError
from safesail.store.shelf import (
    SORTS,
    STATES,
    Cursor,
    Facets,
    fill_hits,
    shelf_count,
    shelf_facets,
    shelf_page,
    shelf_rows,
)
from safesail.view.desk import Desk
from safesail.view.links import listing

PAGE_ROWS = 50
MAX_HITS = 1000
"""Best hits of a search that are listed, filtered and sorted."""

MAX_QUERY = 300
"""Characters of a search."""

SORT_NAMES = {
    "feature": "feature",
    "score": "score, highest first",
    "score_up": "score, lowest first",
    "density": "density, highest first",
    "density_up": "density, lowest first",
}
STATE_NAMES = {
    "explained": "explained",
    "scored": "scored",
    "above_chance": "above chance",
    "beyond_lookup": "above the token table",
    "with_effect": "shown to do something",
    "unexplained": "not explained",
    "hidden": "masked",
}
RELEVANCE = "relevance"


@dataclass(frozen=True)
class ListQuery:
    """What is asked for, as it stands in an address."""

    q: str = ""
    domain: str = ""
    sae: str = ""
    layer: int | None = None
    least: float | None = None
    state: str = ""
    sort: str = ""
    after: str = ""
    before: str = ""

    @classmethod
    def read(cls, given: Mapping[str, str]) -> "ListQuery":
        """Read an address; fields that are not ours are left out.

        Raises:
            ConfigError: a value that cannot be meant, and which.
        """
        texts = {f.name: given[f.name] for f in fields(cls) if given.get(f.name)}
        if len(texts.get("q", "")) > MAX_QUERY:
            raise ConfigError(f"a search has at most {MAX_QUERY} characters")
        numbers: dict[str, Any] = {}
        for name, kind in (("layer", int), ("least", float)):
            if name in texts:
                try:
                    numbers[name] = kind(texts.pop(name))
                except ValueError as error:
                    raise ConfigError(f"{name} is a number") from error
        query = cls(**texts, **numbers)
        if query.sort and query.sort not in (*SORTS, RELEVANCE):
            raise ConfigError(f"sort is one of {', '.join((*SORTS, RELEVANCE))}")
        if query.state and query.state not in STATES:
            raise ConfigError(f"state is one of {', '.join(STATES)}")
        return query

    def link(self, **changed: Any) -> str:
        """The address of this list with some fields changed; from its start, unless a cursor is among them."""
        asked = {**self.__dict__, "after": "", "before": "", **changed}
        return listing(**asked)


@dataclass(frozen=True)
class ListedFeature:
    """A feature of the list."""

    sae_id: str
    layer: int | None
    index: int
    explanation: str | None
    tags: tuple[str, ...]
    score: float | None
    low: float | None
    high: float | None
    chance: float | None
    lookup: float | None
    beyond_lookup: str | None
    density: float | None
    top_tokens: tuple[str, ...]
    reason: str | None
    """Why there is no score."""

    effect: str | None
    """Whether it is shown to do something: `yes`, `no` or `not shown`."""


@dataclass(frozen=True)
class Choice:
    """One value of a facet."""

    name: str
    n: int
    link: str
    chosen: bool


@dataclass(frozen=True)
class Listing:
    """A page of the list."""

    query: ListQuery
    rows: tuple[ListedFeature, ...]
    n: int
    """Features that fit, on all pages."""

    facets: dict[str, list[Choice]]
    """By title."""

    previous: str | None
    next: str | None
    search_method: str | None
    """How hits were found; None: nothing was searched for."""

    capped: bool
    """Whether a search had more hits than are listed."""

    sorts: list[Choice]


def list_features(desk: Desk, query: ListQuery) -> Listing:
    """Answer a query.

    Raises:
        ConfigError: it names what the catalog does not have, or searches for nothing.
    """
    result, numbers = _search(desk, query)
    wanted = _facets(desk, query, numbers)
    if numbers is not None:
        fill_hits(desk.db, numbers)
    n, counted = desk.once(("facets", wanted), lambda: _counted(desk, wanted))
    by_rank = numbers is not None and query.sort in ("", RELEVANCE)
    if by_rank:
        page, previous, following = _ranked_page(desk, wanted, numbers or [], query)
    else:
        page, previous, following = _sorted_page(desk, wanted, query)
    listed = tuple(listed_feature(row) for row in shelf_rows(desk.db, page))
    return Listing(
        query=query,
        rows=listed,
        n=n,
        facets=_choices(desk, query, counted),
        previous=previous,
        next=following,
        search_method=None if result is None else result.method,
        capped=numbers is not None and len(numbers) >= MAX_HITS,
        sorts=_sort_choices(query, searched=numbers is not None),
    )


def listed_feature(row: tuple[Any, ...]) -> ListedFeature:
    """A row of `shelf_rows`."""
    cells = list(row)
    cells[4], cells[12] = tuple(cells[4]), tuple(cells[12] or ())
    return ListedFeature(*cells)


def _search(desk: Desk, query: ListQuery) -> tuple[RankedTexts | None, list[int] | None]:
    """The hits of a search by their numbers on the shelf, best first; None: nothing is searched for."""
    if not query.q.strip():
        return None, None

    def search() -> tuple[RankedTexts, list[int]]:
        ranked = desk.index.ranked(query.q, limit=MAX_HITS)
        return ranked, desk.searched[ranked.numbers].tolist()

    return desk.once(("search", query.q), search)


def _facets(desk: Desk, query: ListQuery, numbers: list[int] | None) -> Facets:
    keys = {sae.sae_id: sae.key for sae in desk.saes}
    if query.sae and query.sae not in keys:
        raise ConfigError("this catalog has no such SAE")
    if query.domain and query.domain not in desk.domains:
        raise ConfigError("no feature of this catalog has a tag of that domain")
    return Facets(
        sae_key=keys.get(query.sae),
        layer=query.layer,
        domain=desk.domains.index(query.domain) if query.domain else None,
        least=query.least,
        state=query.state or None,
        among=None if numbers is None else tuple(numbers),
    )


def _counted(desk: Desk, wanted: Facets) -> tuple[int, dict[str, list[tuple[Any, int]]]]:
    return shelf_count(desk.db, wanted), shelf_facets(desk.db, wanted, len(desk.domains))


def _sorted_page(desk: Desk, wanted: Facets, query: ListQuery) -> tuple[list[int], str | None, str | None]:
    """Numbers of a page by sort key, and the links beside it."""
    sort = query.sort if query.sort in SORTS else "score" if desk.totals.scored else "feature"
    cursor = _cursor(query)
    keyed = shelf_page(desk.db, wanted, sort, cursor, PAGE_ROWS + 1)
    backwards = cursor is not None and cursor.backwards
    more = len(keyed) > PAGE_ROWS
    page = keyed[-PAGE_ROWS:] if backwards else keyed[:PAGE_ROWS]
    before = more if backwards else cursor is not None
    after = more if not backwards else True
    return (
        [n for n, _ in page],
        query.link(before=_written(page[0])) if before and page else None,
        query.link(after=_written(page[-1])) if after and page else None,
    )


def _written(at: tuple[int, float]) -> str:
    return f"{at[1]!r}_{at[0]}"


def _cursor(query: ListQuery) -> Cursor | None:
    text = query.after or query.before
    if not text:
        return None
    key, _, n = text.partition("_")
    try:
        return Cursor(float(key), int(n), backwards=not query.after)
    except ValueError as error:
        raise ConfigError("this address names no place in the list; start from its first page") from error


def _ranked_page(
    desk: Desk, wanted: Facets, numbers: list[int], query: ListQuery
) -> tuple[list[int], str | None, str | None]:
    """Numbers of a page of hits, best first; its place is a count of hits before it."""
    start = max(0, int(_cursor_count(query)))
    plain = replace(wanted, among=None)
    kept = numbers
    if plain != Facets():
        fitting = {n for n, _ in shelf_page(desk.db, wanted, "feature", None, MAX_HITS)}
        kept = [n for n in numbers if n in fitting]
    end = start + PAGE_ROWS
    return (
        kept[start:end],
        query.link(after=str(start - PAGE_ROWS) if start > PAGE_ROWS else "") if start else None,
        query.link(after=str(end)) if end < len(kept) else None,
    )


def _cursor_count(query: ListQuery) -> str:
    if not query.after:
        return "0"
    if not query.after.isdigit():
        raise ConfigError("this address names no place in the list; start from its first page")
    return query.after[:9]


def _choices(
    desk: Desk, query: ListQuery, counted: Mapping[str, list[tuple[Any, int]]]
) -> dict[str, list[Choice]]:
    """Facets with a link for each value; one that is chosen links to the list without it."""
    names: dict[str, dict[Any, str]] = {
        "state": STATE_NAMES,
        "domain": dict(enumerate(desk.domains)),
        "layer": {},
        "sae": {key: sae.sae_id for key, sae in desk.saes_by_key.items()},
        "least": {},
    }
    facets: dict[str, list[Choice]] = {}
    for facet, title in (("state", "State"), ("domain", "Domain"), ("least", "Score at least"),
                         ("layer", "Layer"), ("sae", "SAE")):  # fmt: skip
        choices: list[Choice] = []
        for key, n in counted[facet]:
            name = names[facet].get(key, key)
            given = key if facet == "state" else name
            is_chosen = given == getattr(query, facet)
            choices.append(Choice(str(name), n, query.link(**{facet: "" if is_chosen else given}), is_chosen))
        if len(choices) > 1 or any(choice.chosen for choice in choices):
            facets[title] = choices
    return facets


def _sort_choices(query: ListQuery, *, searched: bool) -> list[Choice]:
    names = ({RELEVANCE: "best match"} if searched else {}) | SORT_NAMES
    usual = RELEVANCE if searched else "score"
    return [Choice(name, 0, sort, chosen=sort == (query.sort or usual)) for sort, name in names.items()]

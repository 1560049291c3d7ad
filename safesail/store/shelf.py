"""What a page of features reads: one narrow row per feature to filter, count, sort and page by.

All of it lies in temporary tables beside the `catalog` that `hold_catalog` makes, in its order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from safesail.store.connection import Db
from safesail.store.sql import Row, rows, value

State = Literal[
    "explained", "scored", "above_chance", "beyond_lookup", "with_effect", "unexplained", "hidden"
]
"""What may be asked of a feature: `hidden` ones have a masked explanation."""

STATES: dict[str, str] = {
    "explained": "explained",
    "scored": "score IS NOT NULL",
    "above_chance": "above_chance",
    "beyond_lookup": "beyond_lookup",
    "with_effect": "with_effect",
    "unexplained": "NOT explained",
    "hidden": "hidden",
}

_LAST = 1e300
"""Stands for an unknown value at the end of an order."""

SORTS: dict[str, tuple[str, bool]] = {
    "feature": ("0", False),
    "score": (f"coalesce(score, -{_LAST})", True),
    "score_up": (f"coalesce(score, {_LAST})", False),
    "density": (f"coalesce(density, -{_LAST})", True),
    "density_up": (f"coalesce(density, {_LAST})", False),
}
"""Order by name: what is compared, and whether the largest comes first. Ties stand in the order of the features."""

MAX_DOMAINS = 60
"""Bits of a mask. Domains beyond them share the last one."""


@dataclass(frozen=True)
class Facets:
    """Which features are asked for; None: any."""

    sae_key: int | None = None
    layer: int | None = None
    domain: int | None = None
    """Its bit."""

    least: float | None = None
    """Lowest score."""

    state: str | None = None
    """One of `STATES`."""

    among: tuple[int, ...] | None = None
    """Numbers of rows: the hits of a search."""


@dataclass(frozen=True)
class Cursor:
    """A row that a page begins after, or ends before."""

    key: float
    n: int
    backwards: bool = False


def fill_shelf(db: Db, domains: Mapping[str, int]) -> None:
    """Make the narrow rows; the catalog must be held.

    Args:
        db: An open catalog after `hold_catalog`.
        domains: Bit of every tag's domain.
    """
    db.register(
        "_bits",
        pa.table({"tag": pa.array(domains, pa.string()), "bit": pa.array(domains.values(), pa.int32())}),
    )
    try:
        db.execute(
            """
            CREATE OR REPLACE TEMP TABLE shelf AS
            WITH tagged AS (
                SELECT sae_id, feature, bit_or(1::BIGINT << bit) AS mask FROM live_tags JOIN _bits USING (tag)
                GROUP BY 1, 2
            )
            SELECT c.rowid AS n, s.sae_key, c.layer, c."index", c.score, c.density, coalesce(t.mask, 0) AS mask,
                   c.explanation IS NOT NULL AND c.explanation <> '***' AS explained,
                   coalesce(c.explanation = '***', false) AS hidden,
                   coalesce(c.score_low > c.chance_score, false) AS above_chance,
                   coalesce(c.beyond_lookup = 'yes', false) AS beyond_lookup,
                   coalesce(c.effect = 'yes', false) AS with_effect
            FROM temp.catalog c JOIN saes s USING (sae_id)
            LEFT JOIN tagged t ON t.sae_id = c.sae_id AND t.feature = c."index"
            ORDER BY n
            """
        )
    finally:
        db.unregister("_bits")


def _source(wanted: Facets) -> str:
    """The table that is asked: all features, or the hits of the search of which `fill_hits` was told."""
    return "shelf" if wanted.among is None else "hits"


def fill_hits(db: Db, numbers: Sequence[int]) -> None:
    """Put the rows with these numbers aside: what has them as `among` reads them alone."""
    db.execute(
        "CREATE OR REPLACE TEMP TABLE hits AS SELECT * FROM shelf"
        " WHERE n IN (SELECT unnest(CAST(? AS BIGINT[])))",
        [list(numbers)],
    )


def _where(wanted: Facets) -> tuple[str, list[Any]]:
    parts, values = ["true"], list[Any]()
    for column, asked in (
        ("sae_key = ?", wanted.sae_key),
        ("layer = ?", wanted.layer),
        ("score >= ?", wanted.least),
    ):
        if asked is not None:
            parts.append(column)
            values.append(asked)
    if wanted.domain is not None:
        parts.append("(mask & ?) <> 0")
        values.append(1 << wanted.domain)
    if wanted.state is not None:
        parts.append(STATES[wanted.state])
    return " AND ".join(parts), values


def shelf_page(
    db: Db, wanted: Facets, sort: str, cursor: Cursor | None, limit: int
) -> list[tuple[int, float]]:
    """(number, sort key) of up to `limit` features, in order; after or before the cursor."""
    key, falls = SORTS[sort]
    where, values = _where(wanted)
    backwards = cursor is not None and cursor.backwards
    if cursor is not None:
        further = "<" if falls != backwards else ">"
        after = "<" if backwards else ">"
        where += f" AND ({key} {further} ? OR ({key} = ? AND n {after} ?))"
        values += [cursor.key, cursor.key, cursor.n]
    way, ties = ("DESC" if falls != backwards else "ASC"), ("DESC" if backwards else "ASC")
    selected = rows(
        db,
        f"SELECT n, CAST({key} AS DOUBLE) AS key FROM {_source(wanted)} WHERE {where}"
        f" ORDER BY key {way}, n {ties} LIMIT {int(limit)}",
        values,
    )
    ordered = reversed(selected) if backwards else selected
    return [(int(n), float(at)) for n, at in ordered]


def shelf_rows(db: Db, numbers: Sequence[int]) -> list[Row]:
    """sae_id, layer, index, explanation, tags, score, low, high, chance, lookup, beyond_lookup, density, top_tokens,
    reason, effect; of rows with these numbers, in their order.
    """  # noqa: D205
    selected = rows(
        db,
        'SELECT rowid, sae_id, layer, "index", explanation, tags, score, score_low, score_high, chance_score,'
        " lookup_score, beyond_lookup, density, top_tokens, score_reason, effect FROM temp.catalog"
        " WHERE rowid IN (SELECT unnest(CAST(? AS BIGINT[])))",
        [list(numbers)],
    )
    by_number = {int(row[0]): row[1:] for row in selected}
    return [by_number[n] for n in numbers]


def paged_features(db: Db) -> list[tuple[int, str, int]]:
    """number, sae_id, index of the features about which something is known: explained, masked, scored or tagged."""
    return [
        (int(n), str(sae_id), int(index))
        for n, sae_id, index in rows(
            db,
            'SELECT n, c.sae_id, c."index" FROM shelf h JOIN temp.catalog c ON c.rowid = h.n'
            " WHERE explained OR hidden OR h.score IS NOT NULL OR mask <> 0 ORDER BY n",
        )
    ]


def shelf_masks(db: Db) -> list[int]:
    """Bits of the domains of every row, by its number."""
    return [int(row[0]) for row in rows(db, "SELECT mask FROM shelf ORDER BY n")]


def shelf_count(db: Db, wanted: Facets) -> int:
    """Features that fit."""
    where, values = _where(wanted)
    return int(value(db, f"SELECT count(*) FROM {_source(wanted)} WHERE {where}", values))


def shelf_facets(db: Db, wanted: Facets, n_domains: int) -> dict[str, list[tuple[Any, int]]]:
    """How many features each other choice would leave: by `sae`, `layer`, `domain` (bits), `state` and `least`.

    A facet is counted with all the others as they are chosen.
    """
    counted = {
        name: _grouped(db, replace(wanted, **{field: None}), column)
        for name, field, column in (("sae", "sae_key", "sae_key"), ("layer", "layer", "layer"))
    }
    counted["domain"] = _flags(
        db, replace(wanted, domain=None), {bit: f"(mask & {1 << bit}) <> 0" for bit in range(n_domains)}
    )
    counted["state"] = _flags(db, replace(wanted, state=None), STATES)
    counted["least"] = _flags(
        db, replace(wanted, least=None), {share / 10: f"score >= {share / 10}" for share in range(1, 10)}
    )
    return counted


def _grouped(db: Db, wanted: Facets, column: str) -> list[tuple[Any, int]]:
    where, values = _where(wanted)
    grouped = rows(
        db,
        f"SELECT {column}, count(*) FROM {_source(wanted)} WHERE {where} AND {column} IS NOT NULL"
        " GROUP BY 1 ORDER BY 1",
        values,
    )
    return [(row[0], int(row[1])) for row in grouped]


def _flags(db: Db, wanted: Facets, conditions: Mapping[Any, str]) -> list[tuple[Any, int]]:
    if not conditions:
        return []
    where, values = _where(wanted)
    counts = ", ".join(f"count(*) FILTER ({condition})" for condition in conditions.values())
    (row,) = rows(db, f"SELECT {counts} FROM {_source(wanted)} WHERE {where}", values)
    return [(name, int(n)) for name, n in zip(conditions, row, strict=True) if n]


def searched_rows(db: Db) -> NDArray[np.int64]:
    """Row of the shelf of every explanation that can be searched, by the number that `number_texts` gives it."""
    columns = db.execute(
        "SELECT rowid AS n FROM temp.catalog WHERE trim(explanation) NOT IN ('', '***') ORDER BY sae_id, \"index\""
    ).fetchnumpy()
    return np.asarray(columns["n"], dtype=np.int64)


@dataclass(frozen=True)
class Totals:
    """The catalog in numbers."""

    features: int
    explained: int
    hidden: int
    scored: int
    above_chance: int
    """Whose interval lies above the chance line."""

    with_chance: int
    beyond_lookup: int
    """Whose explanation knows more than a table token -> mean activation."""

    with_lookup: int
    with_effect: int
    """Which are shown to do something: changing them changes what the model says next more than other features do."""

    measured_effect: int
    tagged: int


def totals(db: Db) -> Totals:
    """Counts over the held catalog."""
    (row,) = rows(
        db,
        "SELECT count(*), count(*) FILTER (explained), count(*) FILTER (hidden), count(score),"
        " count(*) FILTER (above_chance), (SELECT count(chance_score) FROM temp.catalog),"
        " count(*) FILTER (beyond_lookup), (SELECT count(lookup_score) FROM temp.catalog),"
        " count(*) FILTER (with_effect), (SELECT count(effect) FROM temp.catalog),"
        " count(*) FILTER (mask <> 0) FROM shelf",
    )
    return Totals(*map(int, row))


def shelf_saes(db: Db) -> list[Row]:
    """sae_key, sae_id, model_id, layer, hook, d_sae, architecture, k, features in the catalog; by layer and name."""
    return rows(
        db,
        "SELECT sae_key, sae_id, model_id, s.layer, hook, d_sae, architecture, k, count(h.n) FROM saes s"
        " LEFT JOIN shelf h USING (sae_key) GROUP BY ALL ORDER BY s.layer NULLS LAST, sae_id",
    )


def drawn_texts(db: Db, most: int) -> list[Row]:
    """number, sae_key, sae_id, layer, index, explanation, mask, score of up to `most` readable explanations.

    Drawn evenly by a hash where there are more; in the order of the features.
    """
    return rows(
        db,
        'SELECT n, h.sae_key, c.sae_id, c.layer, c."index", c.explanation, h.mask, c.score'
        " FROM shelf h JOIN temp.catalog c ON c.rowid = h.n"
        " WHERE h.explained AND trim(c.explanation) <> '' AND n IN ("
        "  SELECT n FROM shelf WHERE explained ORDER BY hash(n), n LIMIT ?) ORDER BY n",
        [most],
    )

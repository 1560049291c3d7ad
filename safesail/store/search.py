"""What full-text search reads of a store."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from safesail.store.connection import Db
from safesail.store.sql import Row, rows, value

_SHOWN = "SELECT sae_id, \"index\", explanation FROM catalog WHERE trim(explanation) NOT IN ('', '***')"


@dataclass(frozen=True)
class IndexedText:
    """A feature's explanation, as the catalog shows it."""

    sae_id: str
    feature: int
    text: str


@dataclass(frozen=True)
class SearchFilter:
    """Which matches count."""

    tags: tuple[str, ...]
    """At least one of these; any feature where empty."""

    min_score: float | None


def texts_digest(db: Db) -> str:
    """Identity of all texts that are searched: equal for equal contents, whatever their order."""
    return str(
        value(
            db,
            "SELECT md5(concat_ws('/', count(*), sum(hash(sae_id, \"index\", explanation) // 16),"
            f' bit_xor(hash(explanation, "index", sae_id)))) FROM ({_SHOWN})',
        )
    )


def indexed_texts(db: Db) -> Generator[list[IndexedText], None, None]:
    """All texts, in the order of their features, in batches."""
    for batch in db.sql(f'{_SHOWN} ORDER BY sae_id, "index"').to_arrow_reader(32_768):
        columns = (batch.column(name).to_pylist() for name in ("sae_id", "index", "explanation"))
        yield [IndexedText(*cells) for cells in zip(*columns, strict=True)]


def text_count(db: Db) -> int:
    """How many texts are searched."""
    return int(value(db, f"SELECT count(*) FROM ({_SHOWN})"))


def text_places(db: Db) -> tuple[NDArray[np.object_], NDArray[np.int32]]:
    """SAE and index of every text, in the order of `indexed_texts`."""
    found = db.sql(f'SELECT sae_id, "index" FROM ({_SHOWN}) ORDER BY sae_id, "index"').to_arrow_table()
    sae_ids = found["sae_id"].combine_chunks().dictionary_encode()
    # A million names of SAEs share a few objects.
    names = np.array(sae_ids.dictionary.to_pylist(), dtype=object)
    return names[sae_ids.indices.to_numpy()], found["index"].to_numpy().astype(np.int32)


FEW = 50
"""Up to so many places are found through an index where the catalog has one; of more, every row is looked at."""


def find_hits(db: Db, places: Sequence[tuple[str, int]], chosen: SearchFilter, limit: int) -> list[Row]:
    """Of the features in `places`, the first `limit` that the filter lets through, in that order.

    Rows: sae_id, layer, index, explanation, tags, score.
    """
    asked = pa.table({
        "sae_id": pa.array([sae_id for sae_id, _ in places], pa.string()),
        "index": pa.array([index for _, index in places], pa.int32()),
        "place": pa.array(range(len(places)), pa.int32()),
    })  # fmt: skip
    # Numbers first, and by themselves: to compare a million names of SAEs takes longer than all the rest, and
    # only constants are looked up in an index.
    constants = ", ".join(str(int(index)) for _, index in places)
    indexes = constants if 0 < len(places) <= FEW else 'SELECT "index" FROM _asked'
    db.register("_asked", asked)
    try:
        return rows(
            db,
            f"""
            WITH near AS MATERIALIZED (
                SELECT sae_id, layer, "index", explanation, tags, score FROM catalog
                WHERE "index" IN ({indexes}) AND (len(?) = 0 OR list_has_any(tags, ?))
                  AND (CAST(? AS DOUBLE) IS NULL OR score >= ?)
            )
            SELECT c.sae_id, c.layer, c."index", c.explanation, c.tags, c.score
            FROM near c JOIN _asked a USING (sae_id, "index")
            ORDER BY a.place LIMIT ?
            """,
            [list(chosen.tags), list(chosen.tags), chosen.min_score, chosen.min_score, limit],
        )
    finally:
        db.unregister("_asked")

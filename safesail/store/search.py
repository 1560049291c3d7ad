"""What search reads of a store: the explanations that the catalog shows, each with a number."""

from collections.abc import Generator, Sequence

import numpy as np
from numpy.typing import NDArray

from safesail.store.connection import Db
from safesail.store.sql import Row, rows, value


def number_texts(db: Db) -> int:
    """Number the explanations from 0, in the order of their features; returns how many there are.

    The other functions of this module read the temporary table that is made here. Masked and empty explanations are
    left out.
    """
    db.execute(
        """
        CREATE OR REPLACE TEMP TABLE searched AS
        SELECT row_number() OVER (ORDER BY sae_id, "index") - 1 AS number,
               sae_id, layer, "index", explanation, tags, score
        FROM catalog WHERE trim(explanation) NOT IN ('', '***') ORDER BY number
        """
    )
    return int(value(db, "SELECT count(*) FROM searched"))


def texts_digest(db: Db) -> str:
    """Identity of the texts and their features: equal for equal contents, whatever their scores and tags."""
    return str(
        value(
            db,
            "SELECT md5(concat_ws('/', count(*), sum(hash(sae_id, \"index\", explanation) // 16),"
            ' bit_xor(hash(explanation, "index", sae_id)))) FROM searched',
        )
    )


def searched_texts(db: Db, batch: int) -> Generator[list[str], None, None]:
    """All texts by their numbers, in batches."""
    for part in db.sql("SELECT explanation FROM searched ORDER BY number").to_arrow_reader(batch):
        yield part.column(0).to_pylist()


def matching_texts(db: Db, tags: Sequence[str], min_score: float | None) -> NDArray[np.bool_]:
    """Whether a text's feature has at least one of the tags (any where empty), and at least this score."""
    columns = db.execute(
        "SELECT (len($tags) = 0 OR list_has_any(tags, $tags)) AND ($least IS NULL OR coalesce(score >= $least, false))"
        " AS chosen FROM searched ORDER BY number",
        {"tags": list(tags), "least": min_score},
    ).fetchnumpy()
    return np.asarray(columns["chosen"], dtype=np.bool_)


def text_rows(db: Db, numbers: Sequence[int]) -> list[Row]:
    """number, sae_id, layer, index, explanation, tags, score of the texts with these numbers, in no order."""
    return rows(db, "SELECT * FROM searched WHERE list_contains(?, number)", [list(numbers)])


def known_concepts(db: Db) -> list[Row]:
    """concept_id, domain, name of every concept that a selection or a release brought."""
    return rows(db, "SELECT concept_id, domain, name FROM concepts ORDER BY 1")


def features_by_concept(
    db: Db, concept_ids: Sequence[str] | None, tags: Sequence[str], words: str | None, limit: int
) -> list[Row]:
    """sae_id, layer, index, concept_id, 6 figures, score, low, high, explanation, top_tokens; best first.

    The figures: lift, frequency, swapped, auc_pairs, auc_wide, readout_rank. One row per feature, with the concept of
    those asked for that it stands for best: by its mean AUC on the concept's pairs and against other domains where
    that is known, else by its lift. Features that a selection named are there before they are harvested.

    Args:
        db: An open catalog.
        concept_ids: Features that tell one of these apart; None: any feature.
        tags: Features with one of these tags too.
        words: Only features whose explanation holds this.
        limit: At most so many.
    """
    return rows(
        db,
        """
        WITH told AS (
            SELECT sae_id, feature, concept_id, coalesce(f.frequency, 0) AS frequency,
                   coalesce(f.swapped, 0) AS swapped, p.auc_pairs, p.auc_wide, p.readout_rank,
                   (p.auc_pairs + coalesce(p.auc_wide, p.auc_pairs)) / 2 AS strength
            FROM (SELECT * FROM feature_concepts WHERE candidate) f
            FULL JOIN separations p USING (selection_id, sae_id, concept_id, feature)
            WHERE f.candidate OR p.readout_rank IS NOT NULL
        ), best AS (
            SELECT *, frequency - swapped AS lift FROM told
            WHERE $concepts IS NULL OR list_contains($concepts, concept_id)
            QUALIFY row_number() OVER (
                PARTITION BY sae_id, feature ORDER BY strength DESC NULLS LAST, lift DESC, concept_id) = 1
        ), known AS (
            SELECT sae_id, layer, "index", tags, score, score_low, score_high, explanation, top_tokens FROM catalog
            UNION ALL BY NAME
            SELECT b.sae_id, s.layer, b.feature AS "index" FROM best b JOIN saes s USING (sae_id)
            WHERE NOT EXISTS (SELECT 1 FROM catalog k WHERE k.sae_id = b.sae_id AND k."index" = b.feature)
        )
        SELECT k.sae_id, k.layer, k."index", b.concept_id, b.lift, b.frequency, b.swapped, b.auc_pairs, b.auc_wide,
               b.readout_rank, k.score, k.score_low, k.score_high, k.explanation, k.top_tokens
        FROM known k LEFT JOIN best b ON b.sae_id = k.sae_id AND b.feature = k."index"
        WHERE ($concepts IS NULL OR b.lift IS NOT NULL OR coalesce(list_has_any(k.tags, $tags), false))
          AND ($words IS NULL OR contains(lower(k.explanation), lower($words)))
        ORDER BY b.strength DESC NULLS LAST, b.lift DESC NULLS LAST, k.score DESC NULLS LAST, k.sae_id, k."index"
        LIMIT $limit
        """,
        {
            "concepts": None if concept_ids is None else list(concept_ids),
            "tags": list(tags),
            "words": words,
            "limit": limit,
        },
    )

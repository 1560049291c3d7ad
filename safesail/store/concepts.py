"""Concepts and their pairs in the store."""

from collections import defaultdict
from collections.abc import Sequence

from safesail.domain.records import Concept, ConceptPair
from safesail.store.bulk import insert
from safesail.store.sql import Db, rows, transaction


def write_concepts(db: Db, concepts: Sequence[Concept]) -> None:
    """Record concepts with their pairs; those recorded before under the same ids are replaced."""
    pairs = [(concept.concept_id, pair) for concept in concepts for pair in concept.pairs]
    ids = [concept.concept_id for concept in concepts]
    with transaction(db):
        insert(
            db,
            "concepts",
            {
                "concept_id": ids,
                "domain": [c.domain for c in concepts],
                "leaf": [c.leaf for c in concepts],
                "name": [c.name for c in concepts],
                "definition": [c.definition for c in concepts],
            },
            on_conflict="REPLACE",
        )
        insert(
            db,
            "concept_pairs",
            {
                "pair_id": [pair.pair_id for _, pair in pairs],
                "concept_id": [concept_id for concept_id, _ in pairs],
                "lang": [pair.lang for _, pair in pairs],
                "form": [pair.form for _, pair in pairs],
                "pos": [pair.pos for _, pair in pairs],
                "neg": [pair.neg for _, pair in pairs],
            },
            on_conflict="REPLACE",
        )
        # Pairs that these concepts no longer have.
        db.execute(
            "DELETE FROM concept_pairs WHERE list_contains(?, concept_id) AND NOT list_contains(?, pair_id)",
            [ids, [pair.pair_id for _, pair in pairs]],
        )


def read_concepts(db: Db) -> tuple[Concept, ...]:
    """Every concept of the store with its pairs, by id."""
    pairs: dict[str, list[ConceptPair]] = defaultdict(list)
    for concept_id, *pair in rows(
        db, "SELECT concept_id, pair_id, lang, form, pos, neg FROM concept_pairs ORDER BY concept_id, pair_id"
    ):
        pairs[concept_id].append(ConceptPair(*pair))
    return tuple(
        Concept(*concept, pairs=tuple(pairs[concept[0]]))
        for concept in rows(
            db, "SELECT concept_id, domain, leaf, name, definition FROM concepts ORDER BY concept_id"
        )
    )

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
    names = ("concept_id", "domain", "leaf", "name", "definition")
    pair_names = ("pair_id", "lang", "form", "pos", "neg")
    with transaction(db):
        insert(
            db,
            "concepts",
            {name: [getattr(c, name) for c in concepts] for name in names},
            on_conflict="REPLACE",
        )
        columns = {name: [getattr(pair, name) for _, pair in pairs] for name in pair_names}
        columns["concept_id"] = [concept_id for concept_id, _ in pairs]
        insert(db, "concept_pairs", columns, on_conflict="REPLACE")
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

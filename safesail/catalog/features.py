"""Which features stand for a concept or domain, with what they were seen to do."""

from dataclasses import dataclass
from difflib import get_close_matches

from safesail.catalog.show import highlight, read_windows
from safesail.concepts.taxonomy import taxonomy
from safesail.domain.ids import FeatureId
from safesail.errors import NotFoundError
from safesail.store.connection import Db
from safesail.store.search import features_by_concept, known_concepts


@dataclass(frozen=True)
class ConceptFeature:
    """A feature and the concept, of those asked for, whose pairs it tells apart best."""

    sae_id: str
    layer: int | None
    index: int
    concept_id: str | None
    """None where it tells none apart: it was found by its tags or its explanation."""

    lift: float | None
    """`frequency` minus `swapped`, in [-1, 1]."""

    frequency: float | None
    """Share of pairs in which it fires on the side with the concept only."""

    swapped: float | None
    """Share of pairs in which it fires on the other side only."""

    auc_pairs: float | None
    """AUC of its largest activation on a text, with the concept against without; None: a release, which has none."""

    auc_wide: float | None
    """The same against texts of other domains; None also where the selection had none."""

    readout_rank: int | None
    """Its place in the concept's readout, from 1; None: not in it."""

    score: float | None
    score_low: float | None
    score_high: float | None
    explanation: str | None
    top_tokens: tuple[str, ...]
    top_texts: tuple[str, ...]
    """Where it fires most strongly, its active tokens as `«token»`; strongest first."""


def concept_features(
    db: Db,
    *,
    concept: str | None = None,
    domain: str | None = None,
    text: str | None = None,
    limit: int = 20,
    n_texts: int = 3,
) -> list[ConceptFeature]:
    """Features of an open catalog by concept, domain and explanation, all of which must fit; best first.

    Best is the largest mean of both AUCs, and where they are not known the largest lift.

    Args:
        db: An open catalog.
        concept: Id, name, or a part of the id between dots.
        domain: A domain of the taxonomy: features of its concepts, and those with its tags.
        text: Words that stand in the explanation as they are here, in any case.
        limit: At most so many.
        n_texts: Windows per feature.

    Raises:
        NotFoundError: no such concept, with the nearest there are.
        ConfigError: no such domain.
    """
    concept_ids = None if concept is None else _concept_ids(db, concept)
    tags: tuple[str, ...] = ()
    if domain is not None:
        tags = taxonomy().tags_of(domain) if concept is None else ()
        of_domain = {concept_id for concept_id, its_domain, _ in known_concepts(db) if its_domain == domain}
        concept_ids = [c for c in of_domain if concept_ids is None or c in concept_ids]
    return [
        ConceptFeature(
            *cells,
            top_tokens=tuple(top_tokens or ()),
            top_texts=_texts(db, FeatureId(cells[0], cells[2]), n_texts),
        )
        for *cells, top_tokens in features_by_concept(db, concept_ids, tags, text, limit)
    ]


def _concept_ids(db: Db, asked: str) -> list[str]:
    known = known_concepts(db)
    fitting = [c for c, _, name in known if asked in (c, name, *c.split(".")) or c.startswith(f"{asked}.")]
    if not fitting:
        names = [concept_id for concept_id, _, _ in known]
        near = get_close_matches(asked, names, n=3, cutoff=0.3) or names[:3]
        hint = f"; near it are {', '.join(near)}" if near else "; run `safesail select-sae` first"
        raise NotFoundError(f"no concept {asked!r} in this catalog{hint}")
    return fitting


def _texts(db: Db, feature: FeatureId, n: int) -> tuple[str, ...]:
    windows = read_windows(db, feature, n)
    return tuple(highlight(w.tokens, w.activations, 1.0, marks=True).plain.strip() for w in windows)

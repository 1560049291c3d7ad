"""Which features are explained, in what order, and which of them share an explanation."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from safesail.autointerp.config import NearDuplicatesConfig, OrderConfig
from safesail.concepts.read import concept_set_hash, load_concepts
from safesail.domain.ids import FeatureId
from safesail.errors import ConfigError, NotFoundError, meant
from safesail.store.concepts import read_concepts
from safesail.store.connection import Db
from safesail.store.exemplars import (
    coactivity,
    densest_features,
    find_feature,
    harvest_of,
    harvested_saes,
    window_counts,
)
from safesail.store.explanations import OWN, Authors
from safesail.store.selection import (
    CandidateFeature,
    best_sae,
    candidate_features,
    latest_selection,
    near_features,
    selections_of,
)


@dataclass(frozen=True)
class FeatureChoice:
    """Which features of an SAE are explained: candidates of a selection, unless others are named."""

    sae_id: str | None = None
    """None: the SAE of the features named, else the one that selections rank first."""

    n: int = 100
    """At most so many."""

    min_windows: int = 5
    """Windows in which a feature must fire, in each split; those that are named need none."""

    selection: str | None = None
    """Beginning of a selection's id; None: the newest of the SAE."""

    concept_files: tuple[str, ...] = ()
    """The selection by these files or folders instead."""

    domains: tuple[str, ...] = ()
    """Only candidates for concepts of these domains."""

    concepts: tuple[str, ...] = ()
    """Only candidates for these concepts."""

    named: tuple[FeatureId, ...] = ()
    """These features, whether a selection nominated them or not."""

    authors: Authors = OWN
    """Whose explanations are scored, where they exist."""

    densest: int | None = None
    """So many features that fire on most tokens, whether a selection nominated them or not."""


@dataclass(frozen=True)
class Chosen:
    """Features of one SAE, in the order in which tokens go to them, and where they come from."""

    sae_id: str
    features: Sequence[CandidateFeature]
    """Those that no selection nominated are of no concept."""

    basis: str


def choose(db: Db, choice: FeatureChoice, order: OrderConfig) -> Chosen:
    """The features to be explained and scored.

    Raises:
        NotFoundError: no finished harvest of the SAE, no such selection, or a feature that was not harvested.
        ConfigError: no feature fires often enough, all domains have weight 0, or a name is unknown.
    """
    sae_id = choose_sae(db, choice)
    harvest_of(db, sae_id)
    if choice.named:
        for feature in choice.named:
            find_feature(db, feature)
        return _unnominated(sae_id, [f.index for f in choice.named], "named")
    if choice.densest is not None:
        dense = _often(db, sae_id, densest_features(db, sae_id), choice.min_windows)
        return _unnominated(sae_id, dense[: choice.densest], "that fire on most tokens")
    selection, basis = _choose_selection(db, sae_id, choice)
    concepts = {c.concept_id: c.domain for c in read_concepts(db)}
    _check_names(choice, order, concepts)
    candidates = candidate_features(
        db, sae_id, selection_id=selection, domains=choice.domains or None, concepts=choice.concepts or None
    )
    if not candidates:
        raise ConfigError(_no_candidates(sae_id, selection, choice))
    often = set(_often(db, sae_id, [c.feature for c in candidates], choice.min_windows))
    enough = [c for c in candidates if c.feature in often]
    ordered = by_value(enough, concepts, order)
    if not ordered:
        raise ConfigError(f"no candidate of {sae_id} is left: every domain that they are of has weight 0")
    nominated = _counted(len(candidates), "candidate")
    return Chosen(sae_id, ordered[: choice.n], f"{nominated} of selection {basis}")


def _check_names(choice: FeatureChoice, order: OrderConfig, concepts: Mapping[str, str]) -> None:
    """Every domain and concept named is in the store, whose concepts have the domains given."""
    domains = set(concepts.values())
    for names, known, what in (
        (choice.domains, domains, "domain"),
        (choice.concepts, concepts.keys(), "concept"),
        (order.weights, domains, "domain to weigh"),
    ):
        for name in names:
            if name not in known:
                raise ConfigError(f"no {what} {name!r} in this store; {meant(name, known)}")


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _no_candidates(sae_id: str, selection: str, choice: FeatureChoice) -> str:
    names = (*choice.domains, *choice.concepts)
    what = f" for {' or '.join(names)}" if names else ""
    return (
        f"selection {selection[:8]} nominates no feature of {sae_id}{what}; choose by --densest or --feature"
    )


def choose_sae(db: Db, choice: FeatureChoice) -> str:
    """The SAE that a choice is about.

    Raises:
        NotFoundError: none is named, and the store has no selection.
        ConfigError: features of several SAEs are named.
    """
    saes = {feature.sae_id for feature in choice.named} | ({choice.sae_id} if choice.sae_id else set[str]())
    if len(saes) > 1:
        raise ConfigError(f"one SAE is explained at a time, and these are of {', '.join(sorted(saes))}")
    if saes:
        return saes.pop()
    harvested = harvested_saes(db)
    return harvested[0] if choice.densest is not None and len(harvested) == 1 else best_sae(db)


def _choose_selection(db: Db, sae_id: str, choice: FeatureChoice) -> tuple[str, str]:
    """Id of the selection, and what is said of it."""
    known = selections_of(db, sae_id)
    if not known:
        latest_selection(db, sae_id)  # says what to do
    fitting = [s for s in known if s.selection_id.startswith(choice.selection or "")]
    if choice.concept_files:
        sets = {concept_set_hash(load_concepts(choice.concept_files, d)) for d in ((), choice.domains)}
        fitting = [s for s in fitting if s.concept_set in sets]
    if not fitting:
        raise NotFoundError(f"no such selection of {sae_id}; there are {'; '.join(map(str, known))}")
    others = (
        f", the newest of {len(fitting)}; choose by --selection or --concepts" if len(fitting) > 1 else ""
    )
    return fitting[0].selection_id, f"{fitting[0]}{others}"


def _often(db: Db, sae_id: str, features: Sequence[int], min_windows: int) -> list[int]:
    """Those of `features` that fire in enough windows of either split."""
    counts = window_counts(db, sae_id)
    often = [
        j for j in features if min(counts.get(j, {}).get(s, 0) for s in ("train", "test")) >= min_windows
    ]
    if not often:
        raise ConfigError(
            f"of the {_counted(len(features), 'feature')} of {sae_id} in question none fires in {min_windows} windows"
            " of either split; harvest more text that has the concepts"
        )
    return often


def _unnominated(sae_id: str, features: Sequence[int], basis: str) -> Chosen:
    once = dict.fromkeys(features)
    return Chosen(
        sae_id, [CandidateFeature(j, (), 0.0, 0.0) for j in once], f"{_counted(len(once), 'feature')} {basis}"
    )


def by_value(
    candidates: Sequence[CandidateFeature], domains: Mapping[str, str], config: OrderConfig
) -> list[CandidateFeature]:
    """Candidates in the order in which tokens should go to them.

    The value of a feature is how well it isolates the concept that it distinguishes best (frequency - swapped), times
    the weight of that concept's domain, times `novelty` to the number of better features for the same concept. A
    stop at any moment then leaves many concepts covered. Our own rule: the paper has none.

    Args:
        candidates: Features of one SAE.
        domains: Domain of every concept id.
        config: Weights.
    """
    n_ahead: Counter[str] = Counter()
    value: dict[int, float] = {}
    for candidate in sorted(candidates, key=lambda c: (c.swapped - c.frequency, c.feature)):
        concept = candidate.concept_ids[0]
        weight = config.weights.get(domains[concept], 1.0)
        specificity = candidate.frequency - candidate.swapped
        value[candidate.feature] = specificity * weight * config.novelty ** n_ahead[concept]
        n_ahead[concept] += 1
    kept = [c for c in candidates if value[c.feature] > 0]
    return sorted(kept, key=lambda c: (-value[c.feature], c.feature))


def near_duplicates(
    db: Db, sae_id: str, features: Sequence[int], config: NearDuplicatesConfig
) -> dict[int, int]:
    """Features that need no explanation of their own, each with the earlier one whose explanation it shares.

    A feature that shares is shared by none, so that nobody gets an explanation at third hand.

    Args:
        db: The open store.
        sae_id: SAE that has been selected and harvested.
        features: In the order in which they are explained.
        config: Thresholds.
    """
    rank = {feature: number for number, feature in enumerate(features)}
    pairs = sorted(
        sorted((rank[a], rank[b]))
        for a, b in near_features(db, sae_id, config.direction)
        if a in rank and b in rank
    )
    shared: dict[int, int] = {}
    for first, second in pairs:
        earlier, later = features[first], features[second]
        if earlier in shared or later in shared:
            continue
        if coactivity(db, sae_id, earlier, later) >= config.activity:
            shared[later] = earlier
    return shared

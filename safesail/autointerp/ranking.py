"""Which features are explained, in what order, and which of them share an explanation."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from safesail.autointerp.config import NearDuplicatesConfig, OrderConfig
from safesail.errors import ConfigError
from safesail.store.concepts import read_concepts
from safesail.store.connection import Db
from safesail.store.exemplars import coactivity, window_counts
from safesail.store.selection import CandidateFeature, candidate_features, near_features


@dataclass(frozen=True)
class FeatureChoice:
    """Which features of an SAE are explained."""

    sae_id: str | None = None
    """None: the SAE that selections rank first."""

    n: int = 100
    """At most so many."""

    min_windows: int = 5
    """Windows in which a feature must fire, in each split."""


def choose(db: Db, sae_id: str, choice: FeatureChoice, order: OrderConfig) -> list[CandidateFeature]:
    """The most valuable candidates that fire often enough, in both splits, to be explained and scored.

    Raises:
        NotFoundError: the SAE has no selection.
        ConfigError: no candidate fires often enough, or all of their domains have weight 0.
    """
    counts = window_counts(db, sae_id)
    candidates = candidate_features(db, sae_id)
    enough = [
        c
        for c in candidates
        if min(counts.get(c.feature, {}).get(split, 0) for split in ("train", "test")) >= choice.min_windows
    ]
    if not enough:
        raise ConfigError(
            f"none of the {len(candidates)} candidates of {sae_id} fires in {choice.min_windows} windows of either "
            "split; harvest more text that has the concepts"
        )
    domains = {c.concept_id: c.domain for c in read_concepts(db)}
    ordered = by_value(enough, domains, order)
    if not ordered:
        raise ConfigError(f"no candidate of {sae_id} is left: every domain that they are of has weight 0")
    return ordered[: choice.n]


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
    taken: Counter[str] = Counter()
    value: dict[int, float] = {}
    for candidate in sorted(candidates, key=lambda c: (c.swapped - c.frequency, c.feature)):
        concept = candidate.concept_ids[0]
        weight = config.weights.get(domains[concept], 1.0)
        specificity = candidate.frequency - candidate.swapped
        value[candidate.feature] = specificity * weight * config.novelty ** taken[concept]
        taken[concept] += 1
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

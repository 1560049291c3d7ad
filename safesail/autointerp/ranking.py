"""In what order candidate features are worth paying for: the most valuable first. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field, NonNegativeFloat

from safesail.domain.config import Config
from safesail.store.selection import CandidateFeature


class OrderConfig(Config):
    """What makes a feature worth its tokens."""

    weights: dict[str, NonNegativeFloat] = Field(default_factory=dict)
    """By domain, how much a feature of it counts; 1 where nothing is said, 0 leaves the domain out."""

    novelty: Annotated[float, Field(gt=0, le=1)] = 0.7
    """What is left of a concept's worth each time a feature for it was taken; 1: all of it."""


def by_value(
    candidates: Sequence[CandidateFeature], domains: Mapping[str, str], config: OrderConfig
) -> list[CandidateFeature]:
    """Candidates in the order in which money should go to them.

    A feature is worth how well it isolates the concept that it distinguishes best (frequency - swapped), times the
    weight of that concept's domain, times `novelty` to the number of better features for the same concept. A stop at
    any moment then leaves many concepts covered. Our own rule: the paper has none.

    Args:
        candidates: Features of one SAE.
        domains: Domain of every concept id.
        config: Weights.
    """
    taken: Counter[str] = Counter()
    worth: dict[int, float] = {}
    for candidate in sorted(candidates, key=lambda c: (c.swapped - c.frequency, c.feature)):
        concept = candidate.concept_ids[0]
        weight = config.weights.get(domains[concept], 1.0)
        specificity = candidate.frequency - candidate.swapped
        worth[candidate.feature] = specificity * weight * config.novelty ** taken[concept]
        taken[concept] += 1
    kept = [c for c in candidates if worth[c.feature] > 0]
    return sorted(kept, key=lambda c: (-worth[c.feature], c.feature))

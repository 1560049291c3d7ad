"""Which features money goes to first."""

from safesail.autointerp.config import OrderConfig
from safesail.autointerp.ranking import by_value
from safesail.store.selection import CandidateFeature

DOMAINS = {"war.raid": "war", "war.siege": "war", "food.soup": "food"}


def candidate(feature: int, concept: str, frequency: float, swapped: float = 0.0) -> CandidateFeature:
    return CandidateFeature(feature, (concept,), frequency, swapped)


def order(candidates: list[CandidateFeature], config: OrderConfig | None = None) -> list[int]:
    return [c.feature for c in by_value(candidates, DOMAINS, config or OrderConfig())]


def test_what_isolates_a_concept_best_comes_first() -> None:
    assert order([candidate(1, "war.raid", 0.5), candidate(2, "food.soup", 0.9, 0.2)]) == [2, 1]


def test_a_second_feature_of_a_concept_waits_for_the_first_of_another() -> None:
    """0.9; then 0.8 x 0.7 = 0.56 against 0.6; then 0.7 x 0.49 = 0.343."""
    found = [
        candidate(1, "war.raid", 0.9),
        candidate(2, "war.raid", 0.8),
        candidate(3, "war.raid", 0.7),
        candidate(4, "war.siege", 0.6),
    ]
    assert order(found) == [1, 4, 2, 3]
    assert order(found, OrderConfig(novelty=1.0)) == [1, 2, 3, 4]


def test_weights_of_domains_count_and_zero_leaves_a_domain_out() -> None:
    found = [candidate(1, "war.raid", 0.6), candidate(2, "food.soup", 0.5)]
    assert order(found, OrderConfig(weights={"food": 2.0})) == [2, 1]
    assert order(found, OrderConfig(weights={"war": 0.0})) == [2]


def test_the_order_does_not_depend_on_how_they_come() -> None:
    found = [candidate(j, "war.raid", 0.5) for j in range(5)]
    assert order(found) == order(found[::-1]) == [0, 1, 2, 3, 4]

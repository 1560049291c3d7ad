"""The arithmetic of the suite's benchmark, on tables small enough to work out by hand."""

import numpy as np
import pytest

from tests.benchmarks import suite_stats as stats
from tests.benchmarks.baselines import alternate
from tests.benchmarks.suite_stats import Option, choose

SAES, DOMAINS = ("a", "b", "c"), ("fraud", "hate")


def tried(
    sae: str, domain: str, value: float | None, *, low: float = 0.0, chance: float | None = 0.1
) -> stats.Tried:
    bottom = None if value is None else low
    return stats.Tried(sae, domain, 0, f"{domain}.x", 0.5, value is not None, (), value, bottom, chance)


def planted() -> stats.Table:
    """SAE a has 0 of 4 above chance, b 1, c 3 of 3: its last feature of hate could not be found."""
    rows = [
        *(tried("a", d, 0.2) for d in DOMAINS for _ in range(2)),
        tried("b", "fraud", 0.8, low=0.5), tried("b", "fraud", None), tried("b", "hate", 0.4), tried("b", "hate", 0.0),
        tried("c", "fraud", 0.9, low=0.7), tried("c", "fraud", 0.6, low=0.3), tried("c", "hate", 0.6, low=0.2),
    ]  # fmt: skip
    return stats.build_table(rows, SAES, DOMAINS)


def test_outcomes_by_sae_and_cell() -> None:
    table = planted()
    assert stats.by_sae(table, stats.above_chance).tolist() == [0, 1, 3]
    assert stats.by_cell(table, stats.above_chance).tolist() == [[0, 0], [1, 0], [2, 1]]
    # The feature without a score adds 0 to the mean of b; c has 3 features, not 4.
    assert stats.by_sae(table, stats.mean_score) == pytest.approx([0.2, 0.3, 0.7])
    assert stats.by_sae(table, stats.mean_score_above) == pytest.approx([0.0, 0.8, 0.7])
    assert stats.by_sae(table, stats.tagged_above_chance).tolist() == [0, 0, 0]


def test_a_feature_without_a_chance_line_is_held_against_its_saes_mean() -> None:
    own, other = (tried("a", "fraud", 0.5, low=0.2, chance=c) for c in (None, 0.3))
    assert stats.is_above(own, 0.1)
    assert not stats.is_above(own, 0.25)
    assert not stats.is_above(other, 0.1), "its own line is the one that counts"
    assert stats.chance_line([own, other]) == pytest.approx(0.3)


@pytest.mark.parametrize(("sign", "rho", "regret", "pick"), [(1, 1.0, 0.0, "c"), (-1, -1.0, 1.0, "a")])
def test_a_figure_in_the_order_of_the_outcome_and_one_against_it(
    sign: int, rho: float, regret: float, pick: str
) -> None:
    table = planted()
    found = stats.outcomes(table, stats.above_chance, stats.resample(table, 50, seed=0))
    figure = sign * np.array([0.1, 0.2, 0.3])
    verdict = stats.judge("f", figure, sign * found.cell, found, np.array([True, True, False]), SAES)
    assert verdict.spearman == pytest.approx(rho)
    assert verdict.spearman_same_layer == pytest.approx(rho)
    assert verdict.spearman_cells == pytest.approx(rho)
    assert verdict.spearman_within_domains == pytest.approx(rho)
    assert (verdict.picked, verdict.regret) == (pick, pytest.approx(regret))
    low, high = verdict.interval_features
    assert low is not None and high is not None and low - 1e-9 <= rho <= high + 1e-9


def test_regret_is_relative_to_the_best() -> None:
    outcome = np.array([0.0, 1.0, 4.0])
    assert stats.regret(outcome, 1) == pytest.approx(0.75)
    assert stats.random_regret(outcome) == pytest.approx((1 + 0.75 + 0) / 3)
    assert stats.regret(np.zeros(3), 1) == 0


def test_resamples_keep_the_number_of_features_and_never_draw_a_missing_one() -> None:
    table = planted()
    drawn = stats.resample(table, 400, seed=1)
    assert (drawn[:, 2, 1, 1] == 0).all(), "c had one feature of hate"
    # Domains are drawn alike for every SAE: 4 features in a whichever they are.
    assert set(drawn[:, 0].sum(axis=(1, 2)).tolist()) == {4}
    assert stats.by_sae(table, stats.above_chance, drawn).mean(axis=0) == pytest.approx([0, 1, 3], abs=0.25)


def test_reliability_is_high_where_features_of_an_sae_are_alike() -> None:
    levels = {"a": 0.1, "b": 0.5, "c": 0.9}
    rows = [tried(s, d, level) for s, level in levels.items() for d in DOMAINS for _ in range(4)]
    table = stats.build_table(rows, SAES, DOMAINS)
    assert stats.reliability(table, stats.mean_score, draws=10, seed=0) == pytest.approx(1.0)


def test_unrelated_orders_of_nine_exceed_seven_tenths_once_in_twenty() -> None:
    assert stats.chance_spearman(9, draws=4000) == pytest.approx(0.68, abs=0.03)  # 0.683 or 0.700 by tables


def test_domains_take_turns_and_no_feature_is_tried_twice() -> None:
    def of(*features: int) -> list[Option]:
        return [Option(f, "c", 0.5, 0.0, True) for f in features]

    chosen = choose({"hate": of(1, 2, 3), "fraud": of(1, 4), "terror": of(1)}, 2)
    assert [(d, o.feature) for d, o in chosen] == [("fraud", 1), ("hate", 2), ("fraud", 4), ("hate", 3)]


def test_every_other_pair_of_each_concept_trains() -> None:
    assert alternate(np.array([0, 1, 0, 1, 0])).tolist() == [True, True, False, False, True]

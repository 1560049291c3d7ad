"""Ranks against nulls, and false discoveries."""

import numpy as np
import pytest

from safesail.metrics.effects import benjamini_hochberg, median_interval, rank_p_values, standardised


def test_a_member_is_put_on_the_scale_of_the_others_of_its_group() -> None:
    # Own 10 among 1, 2, 3: median 2, deviations 1, 0, 1, whose median is 1; so z = 8.
    z = standardised(np.array([[10.0, 1.0, 2.0, 3.0]]))
    assert z[0, 0] == 8
    # The null 1 among 10, 2, 3: median 3, deviations 7, 1, 0, whose median is 1; so z = -2.
    assert z[0, 1] == -2


def test_a_group_whose_nulls_agree_by_chance_does_not_look_large() -> None:
    effects = np.array([[0.1, 0.0, 0.0, 0.0], [0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0]])
    assert standardised(effects)[0, 0] == pytest.approx(1.0)  # 0.1 / (a tenth of the median scale 1)


def test_p_is_the_rank_among_the_nulls_of_all_features() -> None:
    effects = np.array([[9.0, 1.0, 2.0, 3.0, 4.0], [2.6, 1.0, 2.0, 3.0, 4.0]])
    p = rank_p_values(effects)
    assert p[0] == pytest.approx(1 / 9)  # no null of the eight stands as far out
    assert 0.3 < p[1] < 0.8
    assert rank_p_values(effects * 7 + 3) == pytest.approx(p)  # a law: scale and origin do not matter


def test_p_is_uniform_where_nothing_is_planted_and_small_where_something_is() -> None:
    rng = np.random.default_rng(0)
    effects = rng.normal(size=(400, 9)) * rng.lognormal(0, 2, size=(400, 1))
    p = rank_p_values(effects)
    assert np.quantile(p, [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=0.05)
    assert (benjamini_hochberg(p) <= 0.1).sum() == 0
    effects[:40, 0] += 40 * np.abs(effects[:40, 1:]).max(axis=1)
    q = benjamini_hochberg(rank_p_values(effects))
    assert (q[:40] <= 0.1).all()
    assert (q[40:] <= 0.1).sum() <= 8


def test_q_by_hand() -> None:
    # Sorted .01 .02 .03 .5: times 4 / rank: .04 .04 .04 .5.
    assert benjamini_hochberg(np.array([0.5, 0.01, 0.03, 0.02])) == pytest.approx([0.5, 0.04, 0.04, 0.04])
    assert benjamini_hochberg(np.array([0.9, 0.95])) == pytest.approx([0.95, 0.95])


def test_the_interval_is_of_the_median_and_keyed_by_its_seed() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 1000.0])
    low, high = median_interval(values, draws=500, seed=3)
    assert 1 <= low <= 2
    assert 3 < high <= 1000
    assert (low, high) == median_interval(values, draws=500, seed=3)

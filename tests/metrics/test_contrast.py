import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jaxtyping import Bool

from safesail.domain.undefined import Undefined
from safesail.metrics.contrast import (
    MEASURES,
    THRESHOLDS,
    Contrast,
    OneSided,
    contrast,
    join,
    null_draws,
    one_sided,
    p_value,
)

TABLES = st.tuples(st.integers(2, 9), st.integers(1, 8)).flatmap(
    lambda size: st.tuples(arrays(np.bool_, size), arrays(np.bool_, size))
)
Tables = tuple[Bool[np.ndarray, "n_pairs d_sae"], Bool[np.ndarray, "n_pairs d_sae"]]


def known(result: Contrast | Undefined) -> Contrast:
    assert isinstance(result, Contrast), result
    return result


def distinguishing(
    pos: Bool[np.ndarray, "n_pairs d_sae"],
    neg: Bool[np.ndarray, "n_pairs d_sae"],
    *,
    draws: int,
    seed: int,
) -> Contrast | Undefined:
    return contrast(one_sided(pos, neg), draws=draws, rng=np.random.default_rng(seed))


def measure(values: np.ndarray, name: str) -> float:
    return float(values[MEASURES.index(name)])


def test_two_pairs_three_features_by_hand() -> None:
    # Feature 0 fires on q+ only in both pairs; 1 on both sides; 2 on q+ only once and on q- only once.
    pos = np.array([[1, 1, 1], [1, 1, 0]], bool)
    neg = np.array([[0, 1, 0], [0, 1, 1]], bool)
    got = known(distinguishing(pos, neg, draws=10, seed=0))
    assert got.frequency.tolist() == [1.0, 0.0, 0.5]
    assert got.swapped.tolist() == [0.0, 0.0, 0.5]
    assert measure(got.value, "i_cdf") == pytest.approx(1.5 / 3)
    assert measure(got.value, "l0_t0.5") == 2
    assert measure(got.value, "l0_t0.6") == 1
    # At random each of the four one-sided events counts half: I_CDF = (2/2 + 2/2) / 2 pairs / 3 features.
    assert measure(got.null, "i_cdf") == pytest.approx(1 / 3)
    # L_{0,0.5} needs one of two coin flips, 3/4 for either feature; L_{0,0.6} both, 1/4.
    assert measure(got.null, "l0_t0.5") == pytest.approx(1.5)
    assert measure(got.null, "l0_t0.6") == pytest.approx(0.5)
    assert measure((got.value - got.null), "i_cdf") == pytest.approx(1 / 6)


def test_thresholds_that_are_not_exact_in_binary_count_the_feature() -> None:
    pos = np.zeros((10, 1), bool)
    pos[:3] = True
    got = known(distinguishing(pos, np.zeros_like(pos), draws=1, seed=0))
    assert [measure(got.value, f"l0_t{t}") for t in (0.2, 0.3, 0.4)] == [1, 1, 0]


@given(TABLES)
def test_values_agree_with_the_definitions(tables: Tables) -> None:
    pos, neg = tables
    got = known(distinguishing(pos, neg, draws=2, seed=0))
    d = pos & ~neg
    f = d.mean(axis=0)
    assert got.frequency == pytest.approx(f)
    assert got.swapped == pytest.approx((neg & ~pos).mean(axis=0))
    assert measure(got.value, "i_cdf") == pytest.approx(d.mean())
    for t in THRESHOLDS:
        assert measure(got.value, f"l0_t{t}") == sum(x >= t - 1e-12 for x in f)


@given(TABLES)
def test_i_cdf_is_the_integral_of_the_threshold_counts(tables: Tables) -> None:
    got = known(distinguishing(*tables, draws=1, seed=0))
    grid = (np.arange(5040) + 0.5) / 5040  # a multiple of every n up to 9: the integral is exact
    integral = np.mean([(got.frequency >= t).sum() for t in grid])
    assert measure(got.value, "i_cdf") == pytest.approx(integral / got.frequency.size)


@given(TABLES)
def test_swapping_sides_swaps_frequencies_and_keeps_the_null(tables: Tables) -> None:
    pos, neg = tables
    a = known(distinguishing(pos, neg, draws=1, seed=0))
    b = known(distinguishing(neg, pos, draws=1, seed=0))
    assert a.frequency == pytest.approx(b.swapped)
    assert a.null == pytest.approx(b.null)
    assert measure((a.value - a.null), "i_cdf") == pytest.approx(-measure((b.value - b.null), "i_cdf"))


@settings(max_examples=20)
@given(TABLES)
def test_the_exact_null_is_the_mean_over_all_ways_to_draw_sides(tables: Tables) -> None:
    pos, neg = (table[:6] for table in tables)
    n = pos.shape[0]
    every: list[np.ndarray] = []
    for bits in range(2**n):
        swap = np.array([bits >> i & 1 for i in range(n)], bool)[:, None]
        got = distinguishing(np.where(swap, neg, pos), np.where(swap, pos, neg), draws=1, seed=0)
        every.append(known(got).value)
    assert known(distinguishing(pos, neg, draws=1, seed=0)).null == pytest.approx(np.mean(every, axis=0))


def test_null_draws_tend_to_the_exact_null() -> None:
    rng = np.random.default_rng(0)
    sides = one_sided(rng.random((12, 300)) < 0.3, rng.random((12, 300)) < 0.2)
    drawn = null_draws(sides, draws=4000, rng=rng)
    exact = measure(known(contrast(sides, draws=1, rng=rng)).null, "i_cdf")
    assert drawn.mean() == pytest.approx(exact, abs=4.5 * drawn.std() / math.sqrt(4000))


def test_bootstrap_agrees_with_resampling_the_tables() -> None:
    rng = np.random.default_rng(5)
    pos, neg = rng.random((8, 40)) < 0.4, rng.random((8, 40)) < 0.2
    got = known(distinguishing(pos, neg, draws=50, seed=9))
    weights = np.random.default_rng(9).multinomial(8, np.full(8, 1 / 8), 50)
    for row, value, above in zip(weights, got.value_draws, got.above_draws, strict=True):
        chosen = np.repeat(np.arange(8), row)
        again = known(distinguishing(pos[chosen], neg[chosen], draws=1, seed=0))
        assert value[:-1] == pytest.approx(again.value[:-1])
        assert above[:-1] == pytest.approx((again.value - again.null)[:-1])
        # Isolation resamples the pairs' held-out results: folds of repeated pairs would leak.
        assert value[-1] == above[-1] == pytest.approx(got.held_out[chosen].mean())


def test_batches_joined_equal_the_whole_at_any_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    pos, neg = rng.random((10, 60)) < 0.3, rng.random((10, 60)) < 0.3
    parts = join([one_sided(pos[a:b], neg[a:b]) for a, b in ((0, 3), (3, 3), (3, 10))])
    whole = known(distinguishing(pos, neg, draws=20, seed=4))
    monkeypatch.setattr("safesail.metrics.contrast._CELLS", 400)  # many chunks of features
    got = known(contrast(parts, draws=20, rng=np.random.default_rng(4)))
    for name in ("frequency", "swapped", "value", "null", "value_draws", "above_draws"):
        assert getattr(got, name) == pytest.approx(getattr(whole, name)), name


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_pairs_define_nothing(n: int) -> None:
    got = distinguishing(np.zeros((n, 4), bool), np.zeros((n, 4), bool), draws=5, seed=0)
    assert got == Undefined(f"{n} pairs; a contrast needs at least 2")


def test_an_sae_that_never_fires_has_zeros_not_undefined() -> None:
    got = known(distinguishing(np.zeros((3, 4), bool), np.zeros((3, 4), bool), draws=5, seed=0))
    assert not got.value.any()
    assert not got.null.any()
    assert not got.value_draws.any()


def test_plain_activity_is_not_above_the_null_and_a_planted_feature_is() -> None:
    rng = np.random.default_rng(2)
    pos, neg = rng.random((40, 2000)) < 0.3, rng.random((40, 2000)) < 0.3
    plain = one_sided(pos, neg)
    active = known(contrast(plain, draws=1, rng=rng))
    assert measure(active.value, "i_cdf") == pytest.approx(0.3 * 0.7, abs=0.01)
    assert abs(measure((active.value - active.null), "i_cdf")) < 0.01
    assert p_value(measure(active.value, "i_cdf"), null_draws(plain, draws=200, rng=rng)) > 0.02
    pos[:, :10] = True
    neg[:, :10] = False
    planted = known(distinguishing(pos, neg, draws=1, seed=0))
    assert measure(planted.value, "l0_t0.9") == 10
    assert measure(planted.null, "l0_t0.9") == pytest.approx(0, abs=1e-4)


def test_isolation_is_one_for_a_perfect_feature_and_minus_one_for_its_mirror() -> None:
    rng = np.random.default_rng(3)
    pos, neg = rng.random((16, 50)) < 0.2, rng.random((16, 50)) < 0.2
    pos[:, 7], neg[:, 7] = True, False
    assert measure(known(distinguishing(pos, neg, draws=1, seed=0)).value, "pair_isolation") == 1.0
    one = np.ones((4, 1), bool)
    assert measure(known(distinguishing(~one, one, draws=1, seed=0)).value, "pair_isolation") == -1.0


def test_isolation_shares_ties_by_hand() -> None:
    # Two features distinguish every pair, a third none: each held-out pair has 2 of the 2 best.
    pos = np.array([[1, 1, 0]] * 4, bool)
    got = known(distinguishing(pos, np.zeros_like(pos), draws=1, seed=0))
    assert got.held_out.tolist() == [1.0] * 4


def test_isolation_is_not_inflated_by_choosing_among_many_features() -> None:
    rng = np.random.default_rng(4)
    pos, neg = rng.random((40, 16, 3000)) < 0.2, rng.random((40, 16, 3000)) < 0.2
    found = [known(distinguishing(p, n, draws=1, seed=0)) for p, n in zip(pos, neg, strict=True)]
    in_sample = np.mean([(c.frequency - c.swapped).max() for c in found])
    held_out = np.mean([measure(c.value, "pair_isolation") for c in found])
    assert in_sample > 0.4  # the best of 3000 features that say nothing
    assert abs(held_out) < 0.05


def test_p_value_by_hand() -> None:
    assert p_value(2.0, np.array([0.0, 1.0, 2.0])) == (1 + 1) / (1 + 3)
    assert p_value(9.0, np.zeros(99)) == 0.01


def test_the_null_of_many_pairs_neither_overflows_nor_vanishes() -> None:
    pos = np.ones((4000, 1), bool)
    null = known(distinguishing(pos, ~pos, draws=1, seed=0)).null
    assert measure(null, "l0_t0.1") == pytest.approx(1.0)
    assert measure(null, "l0_t0.5") == pytest.approx(0.5, abs=0.01)  # half of it, and half the tie
    assert measure(null, "l0_t0.9") == pytest.approx(0.0)


def test_resampling_never_holds_pairs_by_features_by_draws() -> None:
    def peak(n_pairs: int) -> int:
        rng = np.random.default_rng(0)
        key = np.unique(rng.integers(0, n_pairs * 20_000, n_pairs * 20))
        sides = OneSided(n_pairs, 20_000, key // 20_000, key % 20_000, rng.random(key.size) < 0.5)
        tracemalloc.start()
        contrast(sides, draws=100, rng=rng)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    # 1600 pairs x 20,000 features x 100 draws would be 3.2e9 numbers; twice the pairs add little.
    half, whole = peak(800), peak(1600)
    assert whole < 60_000_000
    assert whole < 1.4 * half

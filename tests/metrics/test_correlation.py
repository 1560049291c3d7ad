import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jaxtyping import Bool, Float, Int

from safesail.domain.undefined import Undefined
from safesail.metrics.correlation import (
    auc,
    balanced_accuracy,
    bootstrap_interval,
    pearson,
    pearson_interval,
    percentile_interval,
    ranks,
    window_sums,
)

VALUES = st.floats(-100, 100).map(lambda x: round(x, 2))
PAIRS = st.integers(2, 30).flatmap(
    lambda n: st.tuples(arrays(np.float64, n, elements=VALUES), arrays(np.float64, n, elements=VALUES))
)


def value(result: float | Undefined) -> float:
    assert isinstance(result, float), result
    return result


def test_pearson_by_hand() -> None:
    # Deviations (-1, 0, 1) and (-4/3, -1/3, 5/3): sum of products 3, norms sqrt(2) and sqrt(14/3).
    got = value(pearson(np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0, 3.0])))
    assert got == pytest.approx(3 / np.sqrt(2 * 14 / 3))


def test_the_papers_figure_of_segments() -> None:
    # [1,0,1,1] against [1,0,1,0]: phi = (2*1 - 1*0) / sqrt(3*1*2*2).
    assert value(pearson(np.array([1, 0, 1, 1]), np.array([1, 0, 1, 0]))) == pytest.approx(2 / np.sqrt(12))


@given(PAIRS, st.floats(0.01, 50), st.floats(-50, 50))
def test_pearson_is_symmetric_and_blind_to_positive_rescaling(
    pair: tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]], scale: float, shift: float
) -> None:
    x, y = pair
    first = pearson(x, y)
    if isinstance(first, Undefined):
        assert np.ptp(x) == 0 or np.ptp(y) == 0
        return
    assert -1 <= first <= 1
    assert value(pearson(y, x)) == pytest.approx(first, abs=1e-9)
    assert value(pearson(x * scale + shift, y)) == pytest.approx(first, abs=1e-6)
    assert value(pearson(-x, y)) == pytest.approx(-first, abs=1e-9)


@given(PAIRS)
def test_pearson_agrees_with_numpy(pair: tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]) -> None:
    x, y = pair
    got = pearson(x, y)
    if isinstance(got, float):
        assert got == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-7)


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([], [], "0 units"),
        ([1.0], [2.0], "1 units"),
        ([1.0, 1.0], [0.0, 1.0], "true values are constant"),
        ([0.0, 1.0], [3.0, 3.0], "simulated values are constant"),
    ],
)
def test_undefined_correlations_say_why(x: list[float], y: list[float], reason: str) -> None:
    got = pearson(np.array(x, float), np.array(y, float))
    assert isinstance(got, Undefined)
    assert reason in got.reason


def test_values_that_are_not_finite_are_a_callers_fault() -> None:
    with pytest.raises(ValueError, match="finite"):
        pearson(np.array([1.0, np.nan]), np.array([1.0, 2.0]))


def test_tiny_and_huge_values_keep_their_correlation() -> None:
    x = np.array([1.0, 2.0, 4.0])
    y = np.array([1.0, 3.0, 4.0])
    assert value(pearson(x * 1e-200, y * 1e200)) == pytest.approx(value(pearson(x, y)))


def test_ranks_share_ties() -> None:
    assert ranks(np.array([10.0, 5.0, 10.0, 1.0])).tolist() == [3.5, 2.0, 3.5, 1.0]


def test_auc_by_hand_with_a_tie() -> None:
    # Positive 2, 1; negative 1, 0: wins (2>1, 2>0, 1>0) and one tie = 3.5 of 4.
    labels = np.array([True, True, False, False])
    assert auc(labels, np.array([2, 1, 1, 0])) == 3.5 / 4


@given(arrays(np.bool_, 12), arrays(np.int64, 12, elements=st.integers(0, 4)))
def test_auc_agrees_with_counting_all_pairs(
    labels: Bool[np.ndarray, " n"], values: Int[np.ndarray, " n"]
) -> None:
    got = auc(labels, values)
    if isinstance(got, Undefined):
        assert labels.all() or not labels.any()
        return
    wins = [(p > n) + (p == n) / 2 for p in values[labels] for n in values[~labels]]
    assert got == pytest.approx(sum(wins) / len(wins))
    assert auc(~labels, values) == pytest.approx(1 - got)


def test_balanced_accuracy_by_hand() -> None:
    labels = np.array([True, False, False, False])
    predicted = np.array([True, True, False, False])
    assert balanced_accuracy(labels, predicted) == (1 + 2 / 3) / 2
    assert balanced_accuracy(labels, np.zeros(4, bool)) == 0.5  # "never" says nothing


@pytest.mark.parametrize(("labels", "reason"), [([True], "no negative"), ([False], "no positive")])
def test_one_sided_labels_define_neither_auc_nor_accuracy(labels: list[bool], reason: str) -> None:
    truth = np.array(labels)
    for got in (auc(truth, np.array([1.0])), balanced_accuracy(truth, truth)):
        assert isinstance(got, Undefined)
        assert reason in got.reason


def windows_of(rng: np.random.Generator, n: int) -> list[tuple[np.ndarray, np.ndarray]]:
    truths = [rng.gamma(0.3, 5.0, size=int(rng.integers(3, 20))) for _ in range(n)]
    return [(x, 0.5 * x + rng.normal(0, 2, x.size)) for x in truths]


def test_interval_from_sums_equals_the_slow_bootstrap() -> None:
    windows = windows_of(np.random.default_rng(3), 25)
    fast = pearson_interval(window_sums(windows), draws=400, seed=7)
    # The slow way, with the very resamples that the seed gives.
    weights = np.random.default_rng(7).multinomial(25, np.full(25, 1 / 25), 400)
    drawn: list[float] = []
    for row in weights:
        chosen = [windows[i] for i in np.repeat(np.arange(25), row)]
        xs, ys = (np.concatenate(side) for side in zip(*chosen, strict=True))
        drawn.append(np.corrcoef(xs, ys)[0, 1])
    assert fast == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=1e-9)


def test_interval_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    truth = 1 / np.sqrt(2)  # y = x + noise of the same variance
    hits = 0
    for trial in range(200):
        xs = [rng.normal(size=8) for _ in range(60)]
        windows = [(x, x + rng.normal(size=8)) for x in xs]
        interval = pearson_interval(window_sums(windows), draws=300, seed=trial)
        assert isinstance(interval, tuple)
        hits += interval[0] <= truth <= interval[1]
    assert 180 <= hits <= 199


def test_large_offsets_lose_no_digits() -> None:
    windows = windows_of(np.random.default_rng(1), 10)
    moved = [(x + 1e7, y - 1e7) for x, y in windows]
    plain = pearson_interval(window_sums(windows), 100, 0)
    assert pearson_interval(window_sums(moved), 100, 0) == pytest.approx(plain, abs=1e-6)


def test_intervals_that_do_not_exist() -> None:
    one = window_sums([(np.array([1.0, 2.0]), np.array([1.0, 2.0]))])
    assert pearson_interval(one, 10, 0) == Undefined("1 windows; an interval needs at least 2")
    assert pearson_interval(window_sums([]), 10, 0) == Undefined("0 windows; an interval needs at least 2")
    flat = window_sums([(np.array([1.0, 2.0]), np.zeros(2)), (np.array([3.0, 2.0]), np.zeros(2))])
    assert pearson_interval(flat, 10, 0) == Undefined("only 0 of 10 resamples define the figure")
    assert bootstrap_interval(lambda chosen: 1.0, 1, 10, 0) == Undefined(
        "1 items; an interval needs at least 2"
    )
    assert isinstance(percentile_interval(np.zeros(4), 9), Undefined)
    assert percentile_interval(np.zeros(5), 9) == (0.0, 0.0)


def test_bootstrap_of_a_mean_has_the_textbook_width() -> None:
    values = np.random.default_rng(2).normal(size=400)
    interval = bootstrap_interval(lambda chosen: float(values[chosen].mean()), 400, 2000, seed=1)
    assert isinstance(interval, tuple)
    assert interval[1] - interval[0] == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.08)

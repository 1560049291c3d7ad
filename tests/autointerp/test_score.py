import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safesail.autointerp.score import agreement
from safesail.autointerp.units import Simulated, Units
from safesail.domain.undefined import Undefined


def window(true: list[float], predicted: list[float]) -> Simulated:
    units = Units(
        tuple("x" for _ in true), tuple(true), tuple(t > 0 for t in true), tuple(("x",) for _ in true)
    )
    return Simulated(units, tuple(predicted))


def test_the_papers_figure_by_hand() -> None:
    # True [1,0,1,0] against simulated [1,0,1,1]: means 1/2 and 3/4, covariance 1/8, deviations 1/2 and sqrt(3)/4,
    # so r = (1/8) / (sqrt(3)/8) = 1/sqrt(3).
    found = agreement([window([1, 0, 1, 0], [1, 0, 1, 1])], draws=10, seed=0)
    assert found.pearson == pytest.approx(1 / np.sqrt(3))
    assert found.balanced_accuracy == 0.75  # all positives, half of the negatives
    assert found.auc == 0.75
    assert (found.n_units, found.n_windows) == (4, 1)


def test_windows_are_pooled_not_averaged() -> None:
    # By itself the silent window has no correlation; pooled it says that its silence was foreseen.
    active, silent = window([1, 0], [1, 0]), window([0, 0], [0, 0])
    assert agreement([active, silent], draws=10, seed=0).pearson == pytest.approx(1.0)
    wrong = window([0, 0], [1, 1])
    # true 1,0,0,0 against 1,0,1,1: r = (1/4 - 1/4*3/4) / (sqrt(3)/4)^2 = 1/3
    assert agreement([active, wrong], draws=10, seed=0).pearson == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("true", "predicted", "reason"),
    [
        ([0, 0, 0], [1, 0, 0], "true values are constant"),
        ([1, 0, 0], [0, 0, 0], "simulated values are constant"),
    ],
)
def test_a_constant_side_gives_no_score_but_a_reason(
    true: list[float], predicted: list[float], reason: str
) -> None:
    found = agreement([window(true, predicted)], draws=10, seed=0)
    assert found.pearson == Undefined(reason)
    assert found.interval == Undefined(reason)


def test_no_window_gives_no_score() -> None:
    found = agreement([], draws=10, seed=0)
    assert isinstance(found.pearson, Undefined)
    assert isinstance(found.auc, Undefined)


def test_interval_holds_the_score_and_the_same_seed_gives_the_same() -> None:
    rng = np.random.default_rng(0)
    windows = [
        window(
            t := rng.integers(0, 2, 8).astype(float).tolist(), [float(x != (rng.random() < 0.2)) for x in t]
        )
        for _ in range(30)
    ]
    found = agreement(windows, draws=500, seed=3)
    assert isinstance(found.interval, tuple)
    low, high = found.interval
    assert isinstance(found.pearson, float)
    assert low < found.pearson < high
    assert agreement(windows, draws=500, seed=3) == found


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 10)), min_size=3, max_size=30), st.integers(1, 9))
def test_scale_of_the_simulator_and_order_of_windows_change_nothing(
    pairs: list[tuple[int, int]], factor: int
) -> None:
    windows = [window([float(t)], [float(p)]) for t, p in pairs]
    scaled = [window([float(t)], [float(factor * p)]) for t, p in reversed(pairs)]
    one, other = (agreement(w, draws=5, seed=0).pearson for w in (windows, scaled))
    if isinstance(one, Undefined):
        assert one == other
    else:
        assert other == pytest.approx(one, abs=1e-9)

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safesail.domain.undefined import Undefined
from safesail.metrics.quantiles import levels, quantile


def test_quantile_interpolates_between_order_statistics() -> None:
    # Position 0.9 * 3 = 2.7 of (1, 2, 4, 10): 4 + 0.7 * 6.
    assert quantile(np.array([10.0, 1.0, 4.0, 2.0]), 0.9) == pytest.approx(8.2)
    assert quantile(np.array([]), 0.5) == Undefined("no values")


def test_levels_by_hand() -> None:
    # Steps of 8 / 4 = 2; no activity is level 0, a trace of it level 1, anything past the top level 4.
    values = np.array([0.0, 1e-9, 2.0, 2.1, 7.9, 8.0, 80.0])
    assert levels(values, 4, 8.0).tolist() == [0, 1, 1, 2, 4, 4, 4]


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20), st.integers(1, 10), st.floats(0.1, 1e5))
def test_levels_keep_order_and_range(values: list[float], n_levels: int, top: float) -> None:
    got = levels(np.sort(np.array(values, float)), n_levels, top)
    assert (np.diff(got) >= 0).all()
    assert got.min() >= 0
    assert got.max() <= n_levels
    assert ((got == 0) == (np.sort(values) == 0)).all()


@pytest.mark.parametrize(("n_levels", "top"), [(0, 1.0), (4, 0.0), (4, float("nan"))])
def test_levels_need_a_scale(n_levels: int, top: float) -> None:
    with pytest.raises(ValueError, match="levels need"):
        levels(np.array([1.0]), n_levels, top)

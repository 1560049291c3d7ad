import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safesail.metrics.quantiles import bin_of, bin_start, levels


@given(st.floats(2.0**-100, 2.0**100, width=32), st.integers(1, 10))
def test_a_value_lies_in_its_bin(value: float, bits: int) -> None:
    number = bin_of(np.array([value], np.float32), bits)
    assert bin_start(number, bits)[0] <= value < bin_start(number + 1, bits)[0]
    assert (
        bin_start(2 * number + 1, bits + 1) == bin_start(number, bits) / 2 + bin_start(number + 1, bits) / 2
    )


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

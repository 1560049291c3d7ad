"""Histograms of activations: they merge, and their quantiles are near the exact ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from safesail.metrics import quantiles as bins_of_floats
from safesail.store.histogram import BIN_BITS, Histogram, bin_middle, quantiles

QUANTILE_ERROR = 1 / 128
Row = tuple[int, float]
VALUES = st.floats(min_value=2.0**-100, max_value=2.0**100, width=32)
ROWS = st.lists(st.tuples(st.integers(0, 5), VALUES), max_size=60)
Q = st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.999, 1.0])
NARROW, WIDE = 6, 1 << 40
"""Numbers of features: those of a wide SAE are sorted in another way."""


def histogram(rows: list[Row], d_sae: int = NARROW) -> Histogram:
    return Histogram.of(
        np.array([r[0] for r in rows], dtype=np.int32),
        np.array([r[1] for r in rows], dtype=np.float32),
        d_sae,
    )


def bin_of(values: NDArray[np.float32]) -> NDArray[np.int32]:
    return bins_of_floats.bin_of(values, BIN_BITS)


def as_dict(h: Histogram) -> dict[tuple[int, int], int]:
    columns = (h.key_feature, h.bin, h.n)
    return {(int(f), int(b)): int(n) for f, b, n in zip(*columns, strict=True)}


def by_feature(h: Histogram) -> dict[int, tuple[float, float]]:
    columns = (h.feature, h.total, h.maximum)
    return {int(f): (float(t), float(m)) for f, t, m in zip(*columns, strict=True)}


def floats(*values: float) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def test_there_are_64_bins_an_octave() -> None:
    one, almost, next_bin, two = bin_of(floats(1.0, 1 + 1 / 64 - 1e-6, 1 + 1 / 64, 2.0))
    assert (almost - one, next_bin - one, two - one) == (0, 1, 64)
    assert bin_middle(np.array([one])).tolist() == [1 + 1 / 128]


@given(st.lists(VALUES, min_size=1))
def test_a_value_is_within_half_a_bin_of_its_bins_middle(values: list[float]) -> None:
    value = floats(*values)
    middle = bin_middle(bin_of(value))
    assert (np.abs(middle.astype(float) - value) <= QUANTILE_ERROR * value.astype(float)).all()
    assert (bin_of(middle) == bin_of(value)).all()


@given(VALUES, VALUES)
def test_bins_are_ordered_as_values_are(a: float, b: float) -> None:
    low, high = bin_of(floats(min(a, b), max(a, b)))
    assert low <= high


@pytest.mark.parametrize("d_sae", [8, WIDE])
def test_a_histogram_by_hand(d_sae: int) -> None:
    h = histogram([(7, 2.0), (1, 1.0), (7, 1.0), (7, 2.0078125)], d_sae)
    assert h.key_feature.tolist() == [1, 7, 7]
    assert h.n.tolist() == [1, 1, 2]
    assert h.bin.tolist() == bin_of(floats(1, 1, 2)).tolist()
    assert h.feature.tolist() == [1, 7]
    assert h.total.tolist() == [1.0, 5.0078125]
    assert h.maximum.tolist() == [1.0, 2.0078125]
    of_seven = h.between(2, 9)
    assert (of_seven.n.tolist(), of_seven.feature.tolist(), of_seven.total.tolist()) == (
        [1, 2],
        [7],
        [5.0078125],
    )
    assert len(h.between(2, 7).key) == len(h.between(2, 7).feature) == 0


@given(ROWS, ROWS)
def test_histograms_of_two_shards_add_up_to_that_of_both(a: list[Row], b: list[Row]) -> None:
    summed, both = Histogram.add_up([histogram(a), histogram(b)]), histogram(a + b)
    assert as_dict(summed) == as_dict(both)
    assert by_feature(summed).keys() == by_feature(both).keys()
    for feature, (total, maximum) in by_feature(both).items():
        assert by_feature(summed)[feature] == (pytest.approx(total, rel=1e-12), maximum)


@given(ROWS)
def test_no_nonzero_is_lost_and_order_leaves_no_trace(rows: list[Row]) -> None:
    h = histogram(rows)
    assert h.n.sum() == len(rows)
    assert h.key.tolist() == sorted(set(h.key.tolist()))
    for other in (histogram(rows[::-1]), histogram(rows, WIDE)):
        assert as_dict(other) == as_dict(h)
        assert by_feature(other) == by_feature(h)


@given(ROWS, Q)
def test_quantiles_are_within_the_stated_error(rows: list[Row], q: float) -> None:
    h = histogram(rows)
    assert set(h.feature.tolist()) == {feature for feature, _ in rows}
    for feature, quantile in zip(h.feature.tolist(), quantiles(h, [q])[0].tolist(), strict=True):
        values = [value for f, value in rows if f == feature]
        exact = float(np.quantile(values, q, method="higher"))
        assert abs(quantile - exact) <= QUANTILE_ERROR * exact
        assert quantile <= max(values)


def test_quantiles_by_hand() -> None:
    # Ranks of feature 2 are 0..9: value 1 holds 0..7, value 2 rank 8, value 3 rank 9.
    h = histogram([(2, 1.0)] * 8 + [(2, 2.0), (2, 3.0), (9, 5.0)], 10)
    middle = {v: float(bin_middle(bin_of(floats(v)))[0]) for v in (1.0, 2.0)}
    assert quantiles(h, [0.0])[0].tolist() == [middle[1.0], 5.0]
    assert quantiles(h, [7 / 9])[0].tolist() == [middle[1.0], 5.0]
    assert quantiles(h, [0.8])[0].tolist() == [middle[2.0], 5.0]
    assert quantiles(h, [0.9])[0].tolist() == [3.0, 5.0]  # the middle of its bin lies above the maximum
    assert quantiles(histogram([]), [0.5])[0].tolist() == []

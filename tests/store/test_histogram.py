"""Histograms of activations: they merge, and their quantiles are near the exact ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from safesail.harvest.activations import BIN_BITS, Bins, Nonzeros, bin_middle, histogram
from safesail.metrics import quantiles as bins_of_floats
from safesail.store.statistics import quantiles_from_bins

QUANTILE_ERROR = 1 / 128
Row = tuple[int, float]
VALUES = st.floats(min_value=2.0**-100, max_value=2.0**100, width=32)
ROWS = st.lists(st.tuples(st.integers(0, 5), VALUES), max_size=60)
Q = st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.999, 1.0])


def nonzeros(rows: list[Row]) -> Nonzeros:
    return Nonzeros(
        feature=np.array([r[0] for r in rows], dtype=np.int32),
        token=np.arange(len(rows), dtype=np.int64),
        value=np.array([r[1] for r in rows], dtype=np.float32),
    )


def bin_of(values: NDArray[np.float32]) -> NDArray[np.int32]:
    return bins_of_floats.bin_of(values, BIN_BITS)


def as_dict(bins: Bins) -> dict[tuple[int, int], tuple[int, float, float]]:
    columns = (bins.feature, bins.bin, bins.n, bins.total, bins.maximum)
    return {(int(f), int(b)): (int(n), float(t), float(m)) for f, b, n, t, m in zip(*columns, strict=True)}


def quantiles(rows: list[Row], q: float) -> dict[int, float]:
    bins = histogram(nonzeros(rows))
    return quantiles_from_bins(
        bins.feature.astype(np.int64), bin_middle(bins.bin).astype(np.float64), bins.n, q
    )


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


def test_a_histogram_by_hand() -> None:
    bins = histogram(nonzeros([(7, 2.0), (1, 1.0), (7, 1.0), (7, 2.0078125)]))
    assert bins.feature.tolist() == [1, 7, 7]
    assert bins.n.tolist() == [1, 1, 2]
    assert bins.total.tolist() == [1.0, 1.0, 4.0078125]
    assert bins.maximum.tolist() == [1.0, 1.0, 2.0078125]
    assert bins.bin.tolist() == bin_of(floats(1, 1, 2)).tolist()


@given(ROWS, ROWS)
def test_histograms_of_two_shards_add_up_to_that_of_both(a: list[Row], b: list[Row]) -> None:
    first, second, both = (as_dict(histogram(nonzeros(rows))) for rows in (a, b, a + b))
    assert both.keys() == first.keys() | second.keys()
    nothing = (0, 0.0, 0.0)
    for key, (n, total, maximum) in both.items():
        x, y = first.get(key, nothing), second.get(key, nothing)
        assert n == x[0] + y[0]
        assert total == pytest.approx(x[1] + y[1], rel=1e-12)
        assert maximum == max(x[2], y[2])


@given(ROWS)
def test_no_nonzero_is_lost_and_rows_are_sorted(rows: list[Row]) -> None:
    bins = histogram(nonzeros(rows))
    assert bins.n.sum() == len(rows)
    keys = list(zip(bins.feature.tolist(), bins.bin.tolist(), strict=True))
    assert keys == sorted(set(keys))


@given(ROWS, Q)
def test_quantiles_from_bins_are_within_the_stated_error(rows: list[Row], q: float) -> None:
    found = quantiles(rows, q)
    assert found.keys() == {feature for feature, _ in rows}
    for feature, quantile in found.items():
        values = [value for f, value in rows if f == feature]
        exact = float(np.quantile(values, q, method="higher"))
        assert abs(quantile - exact) <= QUANTILE_ERROR * exact


def test_quantiles_by_hand() -> None:
    feature, n = np.array([2, 2, 2, 9]), np.array([8, 1, 1, 1])
    middles = np.array([1.0, 2.0, 3.0, 5.0])
    # Ranks of feature 2 are 0..9: bin 1 holds 0..7, bin 2 rank 8, bin 3 rank 9.
    assert quantiles_from_bins(feature, middles, n, 0.0) == {2: 1.0, 9: 5.0}
    assert quantiles_from_bins(feature, middles, n, 7 / 9) == {2: 1.0, 9: 5.0}
    assert quantiles_from_bins(feature, middles, n, 0.8) == {2: 2.0, 9: 5.0}
    assert quantiles_from_bins(feature, middles, n, 0.9) == {2: 3.0, 9: 5.0}
    empty = np.array([], dtype=np.int64)
    assert quantiles_from_bins(empty, np.array([]), empty, 0.5) == {}

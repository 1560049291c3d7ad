import numpy as np
import pytest

from safesail.selection.activity import ActivityHistogram, text_maxima


def test_maxima_by_hand() -> None:
    # Text 0 has feature 1 twice, text 1 has feature 0 once.
    got = text_maxima(
        np.array([0, 0, 1]), np.array([1, 1, 0]), np.array([0.5, 2.0, 3.0], np.float32), n_texts=2, d_sae=3
    )
    assert got.tolist() == [[0.0, 2.0, 0.0], [3.0, 0.0, 0.0]]


def test_no_activity_is_silence() -> None:
    nothing = np.zeros(0, np.int64)
    assert not text_maxima(nothing, nothing, np.zeros(0, np.float32), 2, 3).any()


@pytest.mark.parametrize("q", [0.1, 0.5, 0.9, 0.99])
def test_quantiles_are_within_a_bin_of_the_exact_ones(q: float) -> None:
    rng = np.random.default_rng(0)
    values = np.stack([rng.gamma(0.5, scale, 2000) for scale in (1e-3, 1.0, 500.0)]).astype(np.float32)
    histogram = ActivityHistogram(4)
    for part in np.split(values, 8, axis=1):  # batches add up
        feature = np.repeat(np.arange(3), part.shape[1])
        histogram.add(feature, np.ascontiguousarray(part).ravel())
    got = histogram.quantile(q)
    assert got[1:3] == pytest.approx(np.quantile(values[1:], q, axis=1), rel=1 / 16)
    assert got[0] == pytest.approx(np.quantile(values[0], q), rel=1 / 16, abs=2.0**-16)
    assert got[3] == 0.0  # never fired


def test_what_is_not_positive_does_not_count() -> None:
    histogram = ActivityHistogram(1)
    histogram.add(np.zeros(3, np.int64), np.array([0.0, -1.0, 4.0], np.float32))
    assert histogram.counts.sum() == 1
    assert histogram.quantile(0.5)[0] == pytest.approx(4.0, rel=1 / 16)

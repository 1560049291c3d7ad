"""Permutations of texts between two sets."""

import numpy as np
import pytest

from safesail.domain.undefined import Undefined
from safesail.metrics.effects import benjamini_hochberg
from safesail.metrics.permutation import jaccard, permutation_p


def sides(n_first: int, n: int) -> np.ndarray:
    return np.arange(n) < n_first


def test_few_texts_are_dealt_in_all_ways() -> None:
    values = np.array([[1.0, 0.0], [1, 1], [1, 0], [1, 1], [0, 0], [0, 1], [0, 0], [0, 1]], np.float32)
    p = permutation_p(values, sides(4, 8), level=0.1)
    assert not isinstance(p, Undefined)
    assert p.tolist() == pytest.approx(
        [2 / 70, 1.0]
    )  # of 70 ways, the one seen and its mirror image differ as much


def test_draws_come_near_to_all_ways() -> None:
    values = np.random.default_rng(0).random((12, 5)).astype(np.float32)
    exact = permutation_p(values, sides(6, 12), level=0.1)
    drawn = permutation_p(values, sides(6, 12), level=0.1, draws=900)
    assert not isinstance(exact, Undefined) and not isinstance(drawn, Undefined)
    assert np.abs(exact - drawn).max() < 0.06
    assert (drawn >= 1 / 901).all() and (exact != drawn).any()


def test_too_few_texts_have_no_p() -> None:
    p = permutation_p(np.ones((2, 3), np.float32), sides(1, 2), level=0.1)
    assert isinstance(p, Undefined)
    assert "1 and 1 prompts can be dealt in 2 ways only" in p.reason


def test_false_discoveries_stay_under_the_level() -> None:
    """1,000 times two sets of one distribution, of features that go together as those of texts do."""
    draw = np.random.default_rng(1)
    discovered = 0
    for seed in range(1_000):
        topic = draw.random((24, 4))
        values = (topic[:, draw.integers(0, 4, 40)] * draw.random((24, 40)) > 0.4).astype(np.float32)
        p = permutation_p(values, sides(12, 24), level=0.1, draws=600, seed=seed)
        assert not isinstance(p, Undefined)
        discovered += bool((benjamini_hochberg(p) <= 0.1).any())
    assert discovered / 1_000 <= 0.1 + 0.02  # two standard errors


def test_a_difference_that_is_there_is_discovered() -> None:
    draw = np.random.default_rng(2)
    values = (draw.random((40, 300)) < 0.3).astype(np.float32)
    values[:20, :3] = 1
    p = permutation_p(values, sides(20, 40), level=0.1)
    assert not isinstance(p, Undefined)
    q = benjamini_hochberg(p)
    assert set(np.flatnonzero(q <= 0.1)) >= {0, 1, 2}
    assert (q <= 0.1).sum() <= 5


def test_jaccard_of_every_pair() -> None:
    a = np.array([[True, True, False], [False, False, False]])
    b = np.array([[True, False, True], [False, False, False]])
    table = jaccard(a, b)
    assert table[0].tolist() == pytest.approx([1 / 3, 0.0])
    assert np.isnan(table[1, 1])

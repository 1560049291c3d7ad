"""Readouts against slow recomputations from their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jaxtyping import Float32

from safesail.metrics.readout import FOLDS, REPEATS, Detection, Maxima, Negatives, Readout, Wide, read_concept

Dense = Float32[np.ndarray, "n_texts d_sae"]
TABLES = st.tuples(st.integers(2, 7), st.integers(2, 6), st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda n: st.tuples(
        *(
            arrays(np.float32, (rows, n[1]), elements=st.sampled_from([0.0, 0.0, 0.5, 1.0, 2.0, 3.5]))
            for rows in (n[0], n[0], n[2], n[3])
        )
    )
)


def sparse(dense: Dense) -> Maxima:
    text, feature = np.nonzero(dense)
    return Maxima(dense.shape[0], dense.shape[1], text, feature.astype(np.int32), dense[text, feature])


def read(
    pos: Dense, neg: Dense, wide: tuple[Dense, Dense] | None, *, limit: int = 5, seed: int = 0
) -> tuple[Readout, Detection | None]:
    halves = None if wide is None else Wide(*(Negatives.of(sparse(half)) for half in wide))
    scale = np.arange(1.0, pos.shape[1] + 1)
    return read_concept(sparse(pos), sparse(neg), halves, scale, limit=limit, rng=np.random.default_rng(seed))


def auc(pos: np.ndarray, neg: np.ndarray) -> float:
    return float(np.mean([(a > b) + (a == b) / 2 for a in pos.tolist() for b in neg.tolist()]))


@settings(max_examples=40, deadline=None)
@given(TABLES)
def test_aucs_agree_with_counting_all_pairs_of_texts(tables: tuple[Dense, Dense, Dense, Dense]) -> None:
    pos, neg, choosing, measuring = tables
    readout, _ = read(pos, neg, (choosing, measuring))
    assert readout.auc_wide is not None
    assert readout.feature.tolist() == np.flatnonzero(pos.any(axis=0)).tolist()
    for j, pairs, wide in zip(readout.feature, readout.auc_pairs, readout.auc_wide, strict=True):
        assert pairs == pytest.approx(auc(pos[:, j], neg[:, j]), abs=1e-6)
        assert wide == pytest.approx(auc(pos[:, j], choosing[:, j]))


def slow_pick(pos: Dense, neg: Dense, choosing: Dense, limit: int) -> list[int]:
    above = [
        round((auc(pos[:, j], neg[:, j]) + auc(pos[:, j], choosing[:, j])) / 2 - 0.5, 6)
        for j in range(pos.shape[1])
    ]
    order = sorted(range(len(above)), key=lambda j: (-above[j], j))
    return [j for j in order[:limit] if above[j] > 0 and above[j] >= 0.5 * max(above)]


@settings(max_examples=20, deadline=None)
@given(TABLES, st.integers(1, 3))
def test_readout_and_detection_agree_with_their_definitions(
    tables: tuple[Dense, Dense, Dense, Dense], limit: int
) -> None:
    pos, neg, choosing, measuring = tables
    # Ties of float32 sums could fall apart in the slow way: a little noise, and none is left.
    noise = np.random.default_rng(0).uniform(0, 0.1, (4, 30, 8)).astype(np.float32)
    pos, neg, choosing, measuring = (
        np.where(t > 0, t + noise[i, : t.shape[0], : t.shape[1]], 0).astype(np.float32)
        for i, t in enumerate((pos, neg, choosing, measuring))
    )
    readout, detection = read(pos, neg, (choosing, measuring), limit=limit, seed=3)
    assert detection is not None
    assert readout.feature[readout.chosen].tolist() == slow_pick(pos, neg, choosing, limit)
    scale, n = np.arange(1.0, pos.shape[1] + 1, dtype=np.float32), len(pos)
    rng, folds = np.random.default_rng(3), min(FOLDS, n)
    expected = np.zeros((2, n))
    for _ in range(REPEATS):
        cut = rng.permutation(n) % folds
        for i in range(n):
            train = cut != cut[i]
            picked = slow_pick(pos[train], neg[train], choosing, limit)
            negatives = (measuring / scale)[:, picked].sum(axis=1)
            for side, table in enumerate((pos, neg)):
                own = (table[i] / scale)[picked].sum()
                close = np.isclose(negatives, own, atol=1e-6)
                expected[side, i] += np.mean(np.where(close, 0.5, negatives < own)) / REPEATS
    assert detection.pos == pytest.approx(expected[0], abs=1e-6)
    assert detection.neg == pytest.approx(expected[1], abs=1e-6)
    assert detection.null == pytest.approx(expected.mean(axis=0), abs=1e-6)


def test_two_planted_features_make_the_readout_and_detect_what_neither_does_alone() -> None:
    rng = np.random.default_rng(1)
    pos, neg, choosing, measuring = (
        (rng.exponential(1, (n, 60)) * (rng.random((n, 60)) < 0.2)).astype(np.float32)
        for n in (24, 24, 200, 200)
    )
    for table in (pos, neg, choosing, measuring):
        table[:, [10, 20]] = 0
    pos[::2, 10], pos[1::2, 20] = 3, 3  # each half of the texts has its own word
    both, detected = read(pos, neg, (choosing, measuring), limit=2)
    one, alone = read(pos, neg, (choosing, measuring), limit=1)
    assert detected is not None and alone is not None
    assert set(both.feature[both.chosen].tolist()) == {10, 20}
    assert len(one.chosen) == 1
    assert detected.pos.mean() > 0.9  # some folds see too few of one word
    assert alone.pos.mean() < 0.85
    assert abs(detected.neg.mean() - 0.5) < 0.02


def test_a_feature_of_the_wording_lifts_the_null_as_well() -> None:
    pos = np.ones((8, 3), np.float32)
    neg, silent = pos.copy(), np.zeros((20, 3), np.float32)
    _, detection = read(pos, neg, (silent, silent))
    assert detection is not None
    assert detection.pos.mean() == detection.null.mean() == 1.0


def test_detection_is_not_lifted_by_choosing_among_many_features() -> None:
    rng = np.random.default_rng(2)
    found: list[float] = []
    for _ in range(30):
        tables = [
            (rng.random((n, 2000)) * (rng.random((n, 2000)) < 0.2)).astype(np.float32)
            for n in (16, 16, 50, 50)
        ]
        readout, detection = read(tables[0], tables[1], (tables[2], tables[3]))
        assert detection is not None and readout.auc_wide is not None
        assert (readout.auc_pairs + readout.auc_wide)[
            readout.chosen[0]
        ] / 2 > 0.65  # of 2,000 that say nothing
        found.append(float(detection.pos.mean()))
    assert abs(np.mean(found) - 0.5) < 0.02


def test_without_other_domains_the_pairs_choose_and_nothing_is_measured() -> None:
    pos, neg = np.array([[1, 2, 0]] * 3, np.float32), np.array([[1, 0, 5]] * 3, np.float32)
    readout, detection = read(pos, neg, None)
    assert detection is None
    assert readout.auc_wide is None
    assert readout.feature[readout.chosen].tolist() == [1]  # 0 is at chance, 2 never fires on q+


def test_an_sae_that_never_fires_detects_at_chance() -> None:
    nothing = np.zeros((4, 3), np.float32)
    readout, detection = read(nothing, nothing, (nothing, nothing))
    assert detection is not None
    assert readout.chosen.size == 0
    assert detection.pos.tolist() == [0.5] * 4


def test_negatives_of_some_texts_are_those_texts_alone() -> None:
    rng = np.random.default_rng(4)
    dense = (rng.random((12, 5)) * (rng.random((12, 5)) < 0.5)).astype(np.float32)
    kept = rng.random(12) < 0.5
    part, own = Negatives.of(sparse(dense)).only(kept), dense[kept]
    assert np.stack([part.column(j) for j in range(5)], axis=1).tolist() == own.tolist()
    assert part.silent == pytest.approx((own == 0).mean(axis=0))

from dataclasses import replace
from functools import reduce
from operator import add

import numpy as np
import pytest
from jaxtyping import Int

from safesail.domain.records import Concept
from safesail.domain.undefined import Undefined
from safesail.metrics.contrast import MEASURES, Contrast, contrast, one_sided
from safesail.metrics.readout import Detection
from safesail.selection.config import SelectionConfig
from safesail.selection.core import ConceptResult, FeatureColumns
from safesail.selection.figures import (
    Detections,
    Sums,
    concept_rows,
    detection_rows,
    equal_length_pair_isolation,
    group_rows,
    interval,
)
from safesail.selection.texts import PairTexts
from safesail.store.selection import ScoreRow

DRAWS = 40
NONE = FeatureColumns(np.zeros(0, np.int32), np.zeros(0), np.zeros(0), np.zeros(0, bool))


def figures(isolation: float, i_cdf: float = 0.2, null: float = 0.1, draws: int = DRAWS) -> Contrast:
    value = np.zeros(len(MEASURES))
    value[0], value[-1] = i_cdf, isolation
    nulls = np.zeros(len(MEASURES))
    nulls[0] = null
    spread = np.linspace(-0.1, 0.1, draws)[:, None]
    held_out = np.array([isolation, isolation])
    return Contrast(np.zeros(0), np.zeros(0), value, nulls, value + spread, value - nulls + spread, held_out)


def summed(results: list[ConceptResult]) -> Sums:
    return reduce(add, [Sums.of(found, DRAWS) for found in results])


def score_rows(results: list[ConceptResult], controls: list[str]) -> list[ScoreRow]:
    domains = {
        domain: summed([r for r in results if r.domain == domain])
        for domain in dict.fromkeys(r.domain for r in results)
    }
    rows = [row for found in results for row in concept_rows(found, Sums.of(found, DRAWS))]
    return rows + group_rows(domains, controls)


def result(
    concept_id: str,
    found: Contrast | Undefined,
    n_pairs: int = 2,
    gaps: Int[np.ndarray, " n_pairs"] = np.array([1, -1]),  # noqa: B008  read only
) -> ConceptResult:
    p = None if isinstance(found, Undefined) else 0.01
    return ConceptResult(
        concept_id, concept_id.split(".")[0], n_pairs, found, gaps, p, NONE, PairTexts.join([], 0)
    )


def row(rows: list[ScoreRow], scope_id: str, measure: str) -> ScoreRow:
    return next(r for r in rows if r.scope_id == scope_id and r.measure == measure)


def test_domains_average_concepts_and_controls_stay_out_of_all() -> None:
    rows = score_rows(
        [result("a.x", figures(0.2)), result("a.y", figures(0.6)), result("b.z", figures(0.7)),
         result("ordinary.o", figures(0.0))],
        controls=["ordinary"],
    )  # fmt: skip
    assert row(rows, "a", "pair_isolation").value == pytest.approx(0.4)
    assert row(rows, "all", "pair_isolation").value == pytest.approx(0.5)  # (0.2 + 0.6 + 0.7) / 3
    assert row(rows, "ordinary", "pair_isolation").value == 0.0
    assert row(rows, "all", "pair_isolation").n_pairs == 6
    assert row(rows, "all", "i_cdf").above_null == pytest.approx(0.1)
    assert row(rows, "all", "i_cdf_above_null").value == pytest.approx(0.1)
    assert row(rows, "all", "i_cdf_share_above_null").value == pytest.approx(0.5)
    assert row(rows, "a.x", "i_cdf_p").value == 0.01
    assert row(rows, "all", "length_gap").value == 0.0
    keys = [(r.scope, r.scope_id, r.measure) for r in rows]
    assert len(keys) == len(set(keys))


def test_intervals_hold_the_figure_between_them() -> None:
    rows = score_rows([result("a.x", figures(0.2))], controls=[])
    got = row(rows, "a.x", "pair_isolation")
    # 95 % of evenly spread draws between -0.1 and 0.1.
    assert (got.low, got.high) == pytest.approx((0.2 - 0.095, 0.2 + 0.095))


def test_the_bias_of_resampled_counts_is_shifted_away() -> None:
    low, high = interval(np.linspace(8, 12, 101), 7.0)
    assert (low, high) == pytest.approx((5.1, 8.9))


def test_undefined_concepts_are_rows_with_a_reason_and_do_not_pull_the_mean() -> None:
    rows = score_rows([result("a.x", figures(0.4)), result("a.y", Undefined("1 pairs"), 1)], controls=[])
    missing = row(rows, "a.y", "pair_isolation")
    assert (missing.value, missing.reason, missing.n_pairs) == (None, "1 pairs", 1)
    assert row(rows, "a", "pair_isolation").value == pytest.approx(0.4)
    only = score_rows([result("ordinary.o", figures(0.4))], controls=["ordinary"])
    assert row(only, "all", "pair_isolation").reason == "every concept is a control"


def test_an_sae_that_tells_nothing_apart_has_no_share() -> None:
    rows = score_rows([result("a.x", figures(0.0, i_cdf=0.0, null=0.0))], controls=[])
    got = row(rows, "all", "i_cdf_share_above_null")
    assert (got.value, got.reason) == (None, "no feature distinguishes any pair")


def test_isolation_that_is_nothing_but_length_vanishes_at_equal_length() -> None:
    gaps = np.array([0, 1, 2, 3])
    by_length = replace(figures(0.45), held_out=gaps * 0.3)
    assert equal_length_pair_isolation(summed([result("a.x", by_length, 4, gaps)])) == pytest.approx(0.0)
    unrelated = figures(0.4)
    assert equal_length_pair_isolation(summed([result("a.x", unrelated)])) == pytest.approx(0.4)
    assert equal_length_pair_isolation(summed([result("a.x", by_length, 4, gaps * 0)])) is None


def test_length_is_regressed_out_with_one_slope_and_an_intercept_per_concept() -> None:
    rng = np.random.default_rng(0)
    gaps, shares = rng.integers(-3, 4, (5, 12)), rng.normal(size=(5, 12))
    found = [
        result(f"a.{i}", replace(figures(float(s.mean())), held_out=s), 12, g)
        for i, (g, s) in enumerate(zip(gaps, shares, strict=True))
    ]
    design = np.column_stack([gaps.ravel(), np.repeat(np.eye(5), 12, axis=0)])
    _, *intercepts = np.linalg.lstsq(design, shares.ravel(), rcond=None)[0]
    assert equal_length_pair_isolation(summed(found)) == pytest.approx(np.mean(intercepts))


def test_detection_averages_concepts_and_its_null_is_drawn_sides() -> None:
    def of(pos: float, neg: float) -> Detections:
        found = Detection(np.array([pos, pos]), np.array([neg, neg]))
        return Detections.of(found, 2, DRAWS, np.random.default_rng(0))

    missing = Detections.of("no text", 2, DRAWS, np.random.default_rng(0))
    domains = {"a": of(0.9, 0.5) + of(0.7, 0.5), "b": missing, "ordinary": of(0.1, 0.1)}
    rows = detection_rows(domains, ["ordinary"])
    got = row(rows, "a", "detection")
    assert (got.value, got.null_value, got.low, got.n_pairs) == pytest.approx((0.8, 0.65, 0.8, 4))
    assert row(rows, "a", "detection_above_null").value == pytest.approx(0.15)
    assert (row(rows, "b", "detection").value, row(rows, "b", "detection").reason) == (None, "no text")
    overall = row(rows, "all", "detection")
    assert (overall.value, overall.n_pairs) == (pytest.approx(0.8), 6)
    only = detection_rows({"ordinary": domains["ordinary"]}, ["ordinary"])
    assert row(only, "all", "detection").reason == "every concept is a control"


def test_intervals_of_detection_resample_pairs() -> None:
    found = Detection(np.array([0.0, 1.0] * 8), np.full(16, 0.5))
    (got, above) = Detections.of(found, 16, 4000, np.random.default_rng(1)).rows("concept", "a.x")
    # The mean of 16 fair coins: 0.5, standard deviation 0.125.
    assert (got.low, got.high) == (pytest.approx(0.255, abs=0.04), pytest.approx(0.745, abs=0.04))
    # Above the null, (pos - neg) / 2: half as far.
    assert (above.low, above.high) == (pytest.approx(-0.1225, abs=0.02), pytest.approx(0.1225, abs=0.02))


def test_candidates_need_the_threshold_and_the_lift() -> None:
    pos = np.zeros((4, 5), bool)
    neg = np.zeros((4, 5), bool)
    pos[:, 0] = True  # f = 1, s = 0: candidate
    pos[:2, 1] = neg[2:, 1] = True  # f = s = 0.5: no lift
    pos[:1, 2] = True  # f = 0.25
    neg[:3, 3] = True  # s = 0.75: a mirror
    found = contrast(one_sided(pos, neg), draws=1, rng=np.random.default_rng(0))
    assert not isinstance(found, Undefined)
    got = FeatureColumns.of(found, SelectionConfig())
    assert got.feature.tolist() == [0, 1, 2, 3]
    assert got.candidate.tolist() == [True, False, False, False]


def test_a_concept_without_pairs_is_undefined_not_a_crash() -> None:
    from safesail.selection.core import Scorer

    scorer = Scorer(3, [Concept("a.x", "a", None, "x", "x", ())], SelectionConfig(draws=2))
    (found,) = scorer.close([0])
    assert found.contrast == Undefined("0 pairs; a contrast needs at least 2")

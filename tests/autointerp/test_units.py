import pytest

from safesail.autointerp.config import ScoringConfig
from safesail.autointerp.units import units_of
from tests.made_windows import exemplar

WINDOW = exemplar("a bomb fell here and nobody was hurt", {"bomb": 2.0, "fell": 0.5, "hurt": 1.0})
SILENT = exemplar("the choir sang all of the old songs")


def test_segments_by_hand() -> None:
    (units,) = units_of([WINDOW], ScoringConfig(method="segment", segment_tokens=4, graded=False))
    assert units.texts == ("a bomb fell here", "and nobody was hurt")
    assert units.true == (1.0, 1.0)
    (units,) = units_of(
        [WINDOW], ScoringConfig(method="segment", segment_tokens=4, graded=False, threshold=1.0)
    )
    assert units.true == (1.0, 0.0)  # greater than the threshold, not equal to it
    (units,) = units_of([WINDOW], ScoringConfig(method="segment", segment_tokens=4))
    assert units.true == (2.0, 1.0)
    assert units.active == (True, True)


def test_tokens_keep_their_spaces_and_activations() -> None:
    (units,) = units_of([WINDOW], ScoringConfig(method="token"))
    assert units.texts[:2] == ("a", " bomb")
    assert units.true == WINDOW.activations


def test_detection_is_one_unit_a_window() -> None:
    active, silent = units_of([WINDOW, SILENT], ScoringConfig(method="detection"))
    assert (active.true, silent.true) == ((1.0,), (0.0,))
    assert silent.texts == ("the choir sang all of the old songs",)


def test_fuzzing_marks_active_tokens_rightly_and_as_many_of_a_control_at_random() -> None:
    active, silent = units_of([WINDOW, SILENT], ScoringConfig(method="fuzzing"))
    assert active.texts == ("a <<bomb>> <<fell>> here and nobody was <<hurt>>",)
    assert silent.texts[0].count("<<") == 3  # as many as the active window has
    assert (active.true, silent.true) == ((1.0,), (0.0,))


def test_random_marks_depend_on_the_window_and_the_seed_not_on_the_order() -> None:
    config = ScoringConfig(method="fuzzing")
    one = units_of([WINDOW, SILENT], config)[1]
    other = units_of([exemplar("x y z v"), SILENT, WINDOW], config)[1]
    assert one == other
    seeds = {units_of([WINDOW, SILENT], ScoringConfig(method="fuzzing", seed=s))[1].texts for s in range(8)}
    assert len(seeds) > 2


@pytest.mark.parametrize(
    ("config", "label"),
    [
        (ScoringConfig(method="segment"), "segment"),
        (
            ScoringConfig(method="segment", segment_tokens=4, graded=False, windows_per_call=1),
            "segment-s4-binary-w1",
        ),
        (
            ScoringConfig(method="segment", answers="list", stop_width=0.2, decide_at=0.25),
            "segment-list-stop0.2-at0.25",
        ),
        (ScoringConfig(method="token", windows_per_call=1, segment_tokens=3), "token"),
        (ScoringConfig(method="detection", threshold=0.5), "detection-t0.5"),
    ],
)
def test_a_score_is_stored_under_the_settings_that_change_it(config: ScoringConfig, label: str) -> None:
    assert config.label == label

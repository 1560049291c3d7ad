"""Exemplars and controls out of a real harvest."""

from pathlib import Path

import numpy as np
import pytest

from safesail.autointerp.config import ExemplarConfig
from safesail.autointerp.exemplars import collect, collect_all, distinct, stratify
from safesail.domain.ids import FeatureId
from safesail.domain.records import Exemplar, Split, Window
from safesail.errors import NotFoundError
from safesail.harvest.config import HarvestConfig
from safesail.harvest.run import HarvestJob, run_harvest
from safesail.sae.protocol import SAE
from safesail.store.connection import Db, open_writer
from safesail.store.exemplars import find_features, window_counts
from safesail.store.sql import rows, value
from safesail.subject.protocol import Subject
from tests.harvest.conftest import TEXTS, write_texts

CONFIG = ExemplarConfig(n_active=3, n_random=2, n_hard=2)
SPLITS: tuple[Split, ...] = ("train", "test")


@pytest.fixture
def feature(db: Db, subject: Subject, saes: list[SAE], text_file: Path) -> FeatureId:
    """The feature that fires in about half of the windows."""
    run_harvest(db, HarvestJob(subject, saes, [str(text_file)], HarvestConfig(n_ctx=8)), quiet=True)
    n_windows = value(db, "SELECT count(*) FROM windows")
    counts = {j: sum(c.values()) for j, c in window_counts(db, "tiny-l0").items()}
    return FeatureId("tiny-l0", min(counts, key=lambda j: abs(counts[j] - n_windows / 2)))


def test_active_windows_fire_and_controls_do_not(db: Db, feature: FeatureId) -> None:
    found = collect(db, feature, "train", CONFIG)
    for exemplar in found:
        assert exemplar.window.split == "train"
        assert (max(exemplar.activations) > 0) == (exemplar.kind == "active") == (exemplar.level > 0)
    assert [e.kind for e in found].count("active") == 3
    assert {e.kind for e in found} == {"active", "random", "hard"}
    windows = [(e.window.document_id, e.window.start) for e in found]
    assert len(set(windows)) == len(windows)


def test_hard_controls_hold_a_token_on_which_the_feature_fires(db: Db, feature: FeatureId) -> None:
    top = set(
        value(db, f"SELECT top_tokens FROM features WHERE sae_id = 'tiny-l0' AND feature = {feature.index}")
    )
    hard = [e for e in collect(db, feature, "test", CONFIG) if e.kind == "hard"]
    assert hard
    assert all(top & set(e.window.tokens) for e in hard)


def test_boundary_controls_are_silent_windows_of_documents_in_which_the_feature_fires(
    db: Db, feature: FeatureId
) -> None:
    config = CONFIG.model_copy(update={"n_boundary": 3})
    found = [e for split in SPLITS for e in collect(db, feature, split, config)]
    firing = {
        str(r[0])
        for r in rows(
            db, 'SELECT DISTINCT document_id FROM exemplars WHERE sae_id = ? AND "index" = ?',
            [feature.sae_id, feature.index],
        )
    }  # fmt: skip
    boundary = [e for e in found if e.kind == "boundary"]
    assert boundary
    for exemplar in boundary:
        assert exemplar.window.document_id in firing
        assert max(exemplar.activations) == exemplar.level == 0
    windows = [(e.window.document_id, e.window.start) for e in found]
    assert len(set(windows)) == len(windows)
    assert not any(e.kind == "boundary" for e in collect(db, feature, "train", CONFIG))


def test_order_of_documents_and_batch_size_leave_no_trace(
    db: Db, subject: Subject, saes: list[SAE], feature: FeatureId, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"n_boundary": 2})
    path = write_texts(tmp_path / "reversed.jsonl", TEXTS[::-1])
    with open_writer(tmp_path / "other.duckdb") as other:
        settings = HarvestConfig(n_ctx=8, batch_tokens=16, shard_tokens=40)
        run_harvest(other, HarvestJob(subject, saes, [str(path)], settings), quiet=True)
        for split in SPLITS:
            here, there = collect(db, feature, split, config), collect(other, feature, split, config)
            assert [(e.window, e.kind, e.level) for e in here] == [(e.window, e.kind, e.level) for e in there]


def test_activations_are_those_of_the_store(db: Db, feature: FeatureId) -> None:
    for exemplar in collect(db, feature, "train", CONFIG):
        stored = rows(
            db,
            'SELECT positions, activations FROM exemplars WHERE sae_id = ? AND "index" = ? AND document_id = ?'
            " AND window_id = (SELECT window_id FROM windows WHERE document_id = ? AND start = ?)",
            [feature.sae_id, feature.index, exemplar.window.document_id, exemplar.window.document_id,
             exemplar.window.start],
        )  # fmt: skip
        dense = [0.0] * len(exemplar.window.tokens)
        for positions, values in stored:
            for position, activation in zip(positions, values, strict=True):
                dense[position] = activation
        assert list(exemplar.activations) == dense


def test_the_same_seed_gives_the_same_windows_and_another_one_others(db: Db, feature: FeatureId) -> None:
    assert collect(db, feature, "train", CONFIG) == collect(db, feature, "train", CONFIG)
    other = CONFIG.model_copy(update={"seed": 1})
    assert collect(db, feature, "train", CONFIG) != collect(db, feature, "train", other)


def test_a_feature_that_was_not_harvested_is_an_error(db: Db) -> None:
    with pytest.raises(NotFoundError, match="tiny-l0 has no harvest in this store; run"):
        collect(db, FeatureId("tiny-l0", 3), "train", CONFIG)


def test_stratify_takes_levels_in_turn_strongest_first() -> None:
    level = np.array([1, 1, 1, 1, 1, 1, 3, 3, 5, 1])
    taken = stratify([f"{i}/0" for i in range(10)], level, 5, seed=0)
    assert [int(level[w]) for w in taken] == [5, 3, 1, 3, 1]
    assert len(set(taken)) == 5
    assert stratify([], level[:0], 5, seed=0) == []


def test_windows_alike_round_their_peak_are_shown_once() -> None:
    def exemplar(text: str, document: str) -> Exemplar:
        tokens = tuple(text.split())
        window = Window(document, 0, tuple(range(len(tokens))), tokens, "train")
        activations = tuple(1.0 if t.lower() == "bomb" else 0.0 for t in tokens)
        return Exemplar(FeatureId("s", 0), window, activations, "active", 1)

    first, alike, other = (
        exemplar("x y z w a bomb in b c d", "1"),
        exemplar("p q z w a BOMB in b c e", "2"),
        exemplar("no bomb here", "3"),
    )
    assert distinct([first, alike, other], 5) == [first, other]


def test_many_features_read_at_once_show_what_each_shows_alone(db: Db, feature: FeatureId) -> None:
    features = [FeatureId("tiny-l0", j) for j in sorted(window_counts(db, "tiny-l0"))]
    config = CONFIG.model_copy(update={"n_boundary": 2})
    for split in SPLITS:
        together = collect_all(db, list(find_features(db, features).values()), split, config)
        assert together == {f: collect(db, f, split, config) for f in features}
        assert any(together.values())

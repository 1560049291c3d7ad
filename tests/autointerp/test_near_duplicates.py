"""Near-identical features: found by direction and activity together, explained once."""

from pathlib import Path

import pytest

from safesail.autointerp.clients import ChatSettings
from safesail.autointerp.config import AutointerpConfig, NearDuplicatesConfig
from safesail.autointerp.forecast import forecast
from safesail.autointerp.loop import Plan
from safesail.autointerp.ranking import near_duplicates
from safesail.autointerp.run import run_plan
from safesail.domain.ids import FeatureId
from safesail.llm.budget import parse_budget
from safesail.store.connection import Db, open_writer
from safesail.store.explanations import read_explanation
from safesail.store.selection import write_near
from safesail.store.sql import rows, value
from tests.pipeline.conftest import Made

UNLIMITED = ChatSettings("lexical", "lexical", parse_budget("unlimited"))
LOOSE = NearDuplicatesConfig(direction=0.9, activity=0.5)


@pytest.fixture
def store(made: Made, tmp_path: Path) -> Path:
    copy = tmp_path / "store.duckdb"
    copy.write_bytes((made.out / "safesail.duckdb").read_bytes())
    return copy


def twins(db: Db, sae_id: str) -> tuple[int, int, int]:
    """Three features that were explained; the second now fires exactly where the first does."""
    a, b, c = (
        int(r[0])
        for r in rows(
            db,
            "SELECT DISTINCT feature FROM explanations WHERE sae_id = ? AND error IS NULL ORDER BY 1 LIMIT 3",
            [sae_id],
        )
    )
    key = value(db, "SELECT sae_key FROM saes WHERE sae_id = ?", [sae_id])
    db.execute("DELETE FROM activations_f32 WHERE sae_key = ? AND feature = ?", [key, b])
    db.execute(
        "INSERT INTO activations_f32 BY NAME SELECT sae_key, CAST($b AS INTEGER) AS feature,"
        " sort_key + ($b - feature) * stride AS sort_key, stride, 2 * value AS value FROM activations_f32"
        " WHERE sae_key = $key AND feature = $a",
        {"a": a, "b": b, "key": key},
    )
    db.execute(
        "UPDATE features SET n_active = (SELECT count(*) FROM activations_f32 WHERE sae_key = ? AND feature = ?)"
        " WHERE sae_id = ? AND feature = ?",
        [key, b, sae_id, b],
    )
    return a, b, c


def unexplained_twins(db: Db, sae_id: str) -> tuple[FeatureId, FeatureId]:
    """Two features that fire at the same places, in a store that has asked nothing yet."""
    a, b, _ = twins(db, sae_id)
    for table in ("llm_calls", "explanations", "scores"):
        db.execute(f"DELETE FROM {table}")
    return FeatureId(sae_id, a), FeatureId(sae_id, b)


def test_directions_alone_or_activity_alone_are_not_enough(made: Made, store: Path) -> None:
    sae_id = made.summary.sae_id
    with open_writer(store) as db:
        a, b, c = twins(db, sae_id)
        write_near(db, sae_id, [(a, b, 0.95), (a, c, 0.95)])
        assert near_duplicates(db, sae_id, [c, b, a], LOOSE) == {a: b}
        assert near_duplicates(db, sae_id, [a, b, c], LOOSE) == {b: a}
        write_near(db, sae_id, [(a, b, 0.85)])
        assert near_duplicates(db, sae_id, [a, b, c], LOOSE) == {}


def test_a_shared_explanation_costs_nothing_and_is_marked(made: Made, store: Path) -> None:
    sae_id = made.summary.sae_id
    with open_writer(store) as db:
        first, second = unexplained_twins(db, sae_id)
        plan = Plan(sae_id, [first, second], {second: first})
        report = run_plan(db, plan, UNLIMITED, AutointerpConfig(chance_every=1), quiet=True)
        assert set(report.explained) == {first, second}
        assert report.shared == [second]
        mine, theirs = read_explanation(db, first), read_explanation(db, second)
        assert theirs.text == mine.text
        assert theirs.explainer == f"{mine.explainer}, shared from {first.index}"
        assert value(db, "SELECT count(*) FROM llm_calls WHERE stage = 'explain'") == 1
        # Scored on windows of its own, and not against itself as chance.
        assert value(db, "SELECT count(*) FROM scores WHERE feature = ?", [second.index]) == 1
        assert value(db, "SELECT chance FROM scores WHERE feature = ?", [second.index]) is None


def test_a_dry_run_expects_one_explanation_for_two(made: Made, store: Path) -> None:
    sae_id = made.summary.sae_id
    with open_writer(store) as db:
        first, second = unexplained_twins(db, sae_id)
        config = AutointerpConfig.model_validate({"explain": {"features_per_call": 1}})
        alone = forecast(db, Plan(sae_id, [first, second]), UNLIMITED, config)
        shared = forecast(db, Plan(sae_id, [first, second], {second: first}), UNLIMITED, config)
        assert alone.cost.calls - shared.cost.calls == 1
        assert shared.cost.tokens < alone.cost.tokens

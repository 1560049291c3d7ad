"""A whole pipeline: what it leaves, and that a second run pays nothing."""

import json
from pathlib import Path

import pytest
import yaml

from safesail.autointerp.clients import ChatSettings
from safesail.autointerp.config import AutointerpConfig
from safesail.autointerp.ranking import FeatureChoice
from safesail.autointerp.run import make_plan, run_plan
from safesail.catalog.verify import verify_release
from safesail.errors import ConfigError, NotFoundError
from safesail.llm.budget import parse_budget
from safesail.pipeline.config import find_pipeline
from safesail.pipeline.run import run_pipeline
from safesail.store.connection import open_reader, open_writer
from safesail.store.sql import rows, value
from tests import pretend_device
from tests.pipeline.conftest import Made


def test_it_leaves_store_release_and_summary(made: Made) -> None:
    written = json.loads((made.out / "summary.json").read_text())
    assert written == made.summary.as_json()
    assert written["sae_id"] in ("tiny-l0", "tiny-l1")
    assert written["features_explained"] == written["features_scored"] + written["features_undefined"] > 0
    assert written["tokens_spent"] == written["tokens_total"] > 0
    assert verify_release(made.out / "release").counts.explained == written["features_explained"]


def test_scores_come_from_documents_that_no_explainer_saw(made: Made) -> None:
    with open_reader(made.out / "safesail.duckdb") as db:
        shared = value(
            db,
            "SELECT count(*) FROM windows a JOIN windows b USING (document_id)"
            " WHERE a.split = 'test' AND b.split = 'train'",
        )
    assert shared == 0


def test_every_token_spent_is_in_the_ledger(made: Made) -> None:
    with open_reader(made.out / "safesail.duckdb") as db:
        assert value(db, "SELECT sum(tokens) FROM ledger") == made.summary.tokens_total
        assert {r[0] for r in rows(db, "SELECT DISTINCT stage FROM ledger")} == {"explain", "simulate"}


def test_a_second_run_spends_nothing_and_changes_no_result(made: Made) -> None:
    with open_reader(made.out / "safesail.duckdb") as db:
        before = rows(db, "SELECT * FROM catalog ORDER BY ALL")
    again = run_pipeline(made.file, out=made.out, quiet=True)
    with open_reader(made.out / "safesail.duckdb") as db:
        assert rows(db, "SELECT * FROM catalog ORDER BY ALL") == before
    assert again.tokens_spent == 0
    assert again.features_scored == made.summary.features_scored
    assert again.score == made.summary.score


def test_a_budget_is_never_exceeded_and_more_of_it_goes_on(made: Made) -> None:
    """A run stopped at half the cost, then one with the rest, pay for no question twice."""
    store = made.out.parent / "budget.duckdb"
    store.write_bytes((made.out / "safesail.duckdb").read_bytes())
    with open_writer(store) as db:
        for table in ("llm_calls", "explanations", "scores", "pools"):
            db.execute(f"DELETE FROM {table}")
        config = AutointerpConfig(concurrency=2)
        plan = make_plan(db, FeatureChoice(made.summary.sae_id, n=4, min_windows=2), config)
        half = made.summary.tokens_total // 2
        spent = []
        for budget in (str(half), "unlimited"):
            chat = ChatSettings("lexical", "lexical", parse_budget(budget))
            spent.append(run_plan(db, plan, chat, config, quiet=True))
        assert spent[0].stopped_by is not None
        assert 0 < spent[0].tokens <= half
        # Groups are others where a run stops between them, so the sum is about that of one run, not the same.
        together = spent[0].tokens + spent[1].tokens
        assert together == pytest.approx(made.summary.tokens_total, rel=0.5)
        assert rows(db, "SELECT cache_key FROM llm_calls GROUP BY 1 HAVING count(*) > 1") == []
        assert spent[1].left == 0


def test_a_pipeline_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(NotFoundError, match=r"no pipeline 'nothing': not a file, and not one of demo"):
        find_pipeline("nothing")


def test_an_unknown_setting_is_refused(made: Made) -> None:
    wrong = made.file.with_name("wrong.yaml")
    wrong.write_text(made.file.read_text() + "max_feature: 3\n")
    with pytest.raises(ConfigError, match=r"wrong.yaml: max_feature: Extra inputs are not permitted"):
        run_pipeline(wrong, out=made.out, quiet=True)


def test_summary_says_score_chance_and_cost(made: Made) -> None:
    text = made.summary.as_text()
    assert "chance line" in text
    assert f"{made.summary.tokens_spent:,} in this run" in text


def test_on_another_device_it_comes_to_the_same_end(made: Made, tmp_path: Path) -> None:
    pretend_device.install()
    file = tmp_path / "there.yaml"
    plan = yaml.safe_load(made.file.read_text()) | {"device": pretend_device.NAME}
    file.write_text(yaml.safe_dump(plan), encoding="utf-8")
    there = run_pipeline(file, out=tmp_path / "out", quiet=True)
    assert (there.sae_id, there.features_scored) == (made.summary.sae_id, made.summary.features_scored)
    of = "SELECT sae_id, feature, token, value FROM activations JOIN saes USING (sae_key) ORDER BY ALL"
    stored = []
    for out in (made.out, tmp_path / "out"):
        with open_reader(out / "safesail.duckdb") as db:
            stored.append(rows(db, of))
    assert [r[:3] for r in stored[0]] == [r[:3] for r in stored[1]]
    assert [r[3] for r in stored[1]] == pytest.approx([r[3] for r in stored[0]], rel=1e-5)

"""Harvests that are killed, and harvests that the disk has no room for."""

from pathlib import Path

import pytest

from safesail.harvest.config import HarvestConfig
from safesail.store.connection import open_reader
from safesail.store.sql import one
from safesail.subject.loading import ModelConfig, load_subject
from tests.harvest.conftest import TEXTS, write_sae, write_texts
from tests.harvest_kills import Setup, contents, kill_and_resume, run_alone
from tests.tiny_model import write_tiny_model

MANY = [f"{text} Told for the {i}th time." for i in range(12) for text in TEXTS]


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    model = str(write_tiny_model(tmp_path / "tiny"))
    info = load_subject(ModelConfig(model)).info
    write_sae(tmp_path / "tiny-l1", "blocks.1.hook_mlp_out", info, seed=1)
    text = write_texts(tmp_path / "texts.jsonl", MANY)
    config = HarvestConfig(n_ctx=32, shard_tokens=300, precision="u8")
    return Setup(model, (str(tmp_path / "tiny-l1"),), str(text), config)


def test_a_harvest_that_is_killed_stores_what_an_undisturbed_one_does(setup: Setup, tmp_path: Path) -> None:
    outcome = kill_and_resume(setup, tmp_path, n_kills=3, seed=0)
    assert outcome.kills >= 3
    assert outcome.differing == {}
    assert outcome.rows["activations_u8"] > 10_000
    assert outcome.rows["shards"] > 20


def test_a_full_disk_is_said_in_one_line_and_keeps_what_is_done(setup: Setup, tmp_path: Path) -> None:
    store = tmp_path / "full.duckdb"
    full = run_alone(setup, store, largest_file=800_000)
    assert isinstance(full.said, str), full
    assert "the store cannot be written" in full.said
    assert full.said.endswith("what is stored so far is kept")
    assert "\n" not in full.said
    with open_reader(store) as db:
        done, n_shards = one(db, "SELECT sum(n_tokens), count(*) FROM shards") or (0, 0)
    assert n_shards > 0
    resumed, roomy = run_alone(setup, store).said, run_alone(setup, tmp_path / "roomy.duckdb").said
    assert isinstance(resumed, int) and isinstance(roomy, int)
    assert done + resumed == roomy
    assert contents(store) == contents(tmp_path / "roomy.duckdb")

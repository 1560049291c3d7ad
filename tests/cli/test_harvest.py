"""`safesail harvest`: every kind of text, and every option that decides what is stored."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click import BadParameter
from click.testing import CliRunner

from safesail.cli.main import cli
from tests.cli.test_commands import run_json
from tests.pipeline.conftest import Made

TEXTS = ["the knife lies by the river", "a letter came in winter", "the engine, the garden, the market"]


@pytest.fixture
def base(made: Made) -> list[str]:
    folder = made.file.parent
    sae = folder / "saes" / made.summary.sae_id
    return ["harvest", "--model", str(folder / "tiny"), "--sae", str(sae), "--n-ctx", "16", "--quiet"]


def write_all(folder: Path) -> dict[str, Path]:
    """The same three texts in every kind of file, the last two in a folder."""
    lines = "".join(json.dumps({"body": text}) + "\n" for text in TEXTS)
    folder.mkdir()
    inner = folder / "inner"
    inner.mkdir()
    paths = {
        "jsonl": folder / "a.jsonl", "jsonl.gz": folder / "a.jsonl.gz", "csv": folder / "a.csv",
        "parquet": folder / "a.parquet", "folder": inner,
    }  # fmt: skip
    paths["jsonl"].write_text(lines, encoding="utf-8")
    paths["jsonl.gz"].write_bytes(gzip.compress(lines.encode()))
    paths["csv"].write_text("n,body\n" + "".join(f'1,"{text}"\n' for text in TEXTS), encoding="utf-8")
    pq.write_table(pa.table({"body": TEXTS}), paths["parquet"])
    for number, text in enumerate(TEXTS):
        (inner / f"{number}.txt").write_text(text, encoding="utf-8")
    return paths


CONTENT = """
    SELECT d.text, w.start, a.feature, a.position, round(a.value, 3) AS value FROM activations a
    JOIN windows w USING (window_id) JOIN documents d USING (document_id) ORDER BY ALL
"""


def test_every_kind_of_text_gives_the_same_rows(base: list[str], tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    for kind, path in write_all(tmp_path / "texts").items():
        store = tmp_path / f"{kind}.duckdb"
        report = run_json(*base, "--text", path, "--store", store)
        assert report["n_documents"] == 3
        assert report["new_tokens"] == report["n_tokens"] > 0
        found[kind] = run_json("catalog", "query", "--store", store, CONTENT)
    assert found["jsonl"]
    for kind, stored in found.items():
        assert stored == found["jsonl"], kind


def test_standard_input_is_one_document(base: list[str], tmp_path: Path) -> None:
    command = [*base, "--text", "-", "--store", str(tmp_path / "s.duckdb"), "--json"]
    result = CliRunner().invoke(cli, command, input=TEXTS[0], catch_exceptions=False)
    assert json.loads(result.stdout)["n_documents"] == 1


def test_a_split_without_text_is_warned_of_and_a_table_names_what_matters(
    base: list[str], tmp_path: Path
) -> None:
    command = [*base, "--text", "-", "--store", str(tmp_path / "s.duckdb")]
    result = CliRunner().invoke(cli, command, input=TEXTS[0], catch_exceptions=False)
    (empty,) = [
        line for line in result.stderr.splitlines() if line.startswith("warning: no text of the split")
    ]
    assert "harvest more documents" in empty
    assert result.stdout.split()[:3] == ["sae_ids", "n_tokens", "new_tokens"]


def test_options_decide_what_is_stored(made: Made, base: list[str], tmp_path: Path) -> None:
    texts = ["--text", str(made.file.parent / "texts.jsonl")]
    listed = tmp_path / "listed.txt"
    listed.write_text(f"{made.summary.sae_id}#1\n{made.summary.sae_id}#2\n", encoding="utf-8")
    options = ["--precision", "u8", "--features", listed, "--whole-documents", 0, "--tokens", 900,
               "--batch-tokens", "auto", "--memory-gb", 100, "--threads", 1, "--dtype", "float32",
               "--device", "cpu"]  # fmt: skip
    store = tmp_path / "s.duckdb"
    report = run_json(*base, *texts, *options, "--store", store)
    assert report["n_tokens"] == 900
    (counts,) = run_json(
        "catalog", "query", "--store", store,
        "SELECT (SELECT count(*) FROM activations_u8) AS coded, (SELECT count(*) FROM activations_f32) AS exact,"
        " (SELECT list(DISTINCT feature ORDER BY feature) FROM activations) AS features",
    )  # fmt: skip
    assert counts["coded"] == report["n_nonzeros"] > 0 == counts["exact"]
    assert set(counts["features"]) <= {1, 2}


def test_a_word_that_is_no_choice_and_no_file(base: list[str], tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match="'candidate' is neither all nor candidates nor a file"):
        run_json(*base, "--text", tmp_path, "--features", "candidate", "--store", tmp_path / "s.duckdb")


def test_an_imported_sae_is_harvested_without_replace(made: Made, base: list[str], tmp_path: Path) -> None:
    release, store = tmp_path / "small.zip", tmp_path / "other.duckdb"
    run_json("catalog", "release", release, "--name", "small", "--store", made.out / "safesail.duckdb")
    imported = run_json("catalog", "import", release, "--name", "theirs", "--store", store)
    assert imported["new"]["exemplars"] > 0
    before = run_json("catalog", "query", "--store", store, "SELECT count(*) AS n FROM explanations")
    report = run_json(*base, "--text", made.file.parent / "texts.jsonl", "--store", store)
    assert report["new_tokens"] > 0
    assert run_json("catalog", "query", "--store", store, "SELECT count(*) AS n FROM explanations") == before
    kept = "SELECT count(*) AS n FROM harvests WHERE harvest_id LIKE 'import:%'"
    assert run_json("catalog", "query", "--store", store, kept) == [{"n": 0}]

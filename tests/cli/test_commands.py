"""Every command on a real store: what it prints, and how it ends."""

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from safesail.cli.main import cli
from safesail.errors import ConfigError, NotFoundError
from tests.concepts.test_generate import Writer
from tests.loopback import serving
from tests.pipeline.conftest import Made


def run(*arguments: str | int | Path) -> Result:
    """A command in this process; what it raises is raised here."""
    result = CliRunner().invoke(
        cli, [str(a) for a in arguments], catch_exceptions=False, standalone_mode=False
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def run_json(*arguments: str | int | Path) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


@pytest.fixture
def store(made: Made, tmp_path: Path) -> Path:
    """A store of this test's own."""
    copy = tmp_path / "store.duckdb"
    copy.write_bytes((made.out / "safesail.duckdb").read_bytes())
    return copy


def test_models_lists_the_aliases() -> None:
    by_alias = {row["alias"]: row for row in run_json("models")}
    assert by_alias["llama"]["hub id"] == "meta-llama/Llama-3.1-8B"
    assert by_alias["llama"]["SAE releases"] >= 6
    assert "smollm2" in run("models").stdout


def test_plan_lists_candidates_without_network() -> None:
    rows = run_json("select-sae", "--model", "llama", "--plan")
    layers = {row["layer"] for row in rows if row["name"].startswith("llama_scope_lxm_8x/")}
    assert layers == set(range(32))


def test_fetch_prints_where_a_directory_is(made: Made) -> None:
    assert run("fetch", made.file.parent / "tiny").stdout.strip() == str(made.file.parent / "tiny")


def test_select_sae_reads_what_is_scored_already(made: Made, store: Path) -> None:
    folder = made.file.parent
    config = folder / "selection.yaml"
    config.write_text("{candidate_threshold: 0.15, min_lift: 0.1, keep_floor: 0.1}")
    plot = folder / "figure.png"
    arguments = [
        "--model",
        folder / "tiny",
        "--sae",
        folder / "saes" / "*",
        "--concepts",
        folder / "concepts.yaml",
    ]
    found = run_json("select-sae", *arguments, "--config", config, "--store", store, "--plot", plot)
    assert found["llm_tokens"] == found["tokens"] == 0
    assert {row["new"] for row in found["ranking"]} == {False}
    assert plot.read_bytes().startswith(b"\x89PNG")
    few = run("select-sae", *arguments, "--config", config, "--store", store).stdout
    assert "best: tiny-l" in few
    columns = few.splitlines()[0].split()
    assert columns[:8] == ["sae", "layer", "hook", "L0", "FVU", "detection", "low", "high"]
    assert "l0_t0.5_above_null" not in columns
    every = run("select-sae", *arguments, "--config", config, "--store", store, "--all").stdout
    assert "l0_t0.5_above_null" in every.splitlines()[0]


def test_harvest_of_a_finished_harvest_runs_no_token(made: Made, store: Path) -> None:
    folder = made.file.parent
    arguments = [
        "--model",
        folder / "tiny",
        "--sae",
        folder / "saes" / made.summary.sae_id,
        "--text",
        folder / "texts.jsonl",
    ]
    found = run_json("harvest", *arguments, "--n-ctx", 32, "--store", store, "--quiet")
    assert found["new_tokens"] == 0 < found["n_tokens"]
    with pytest.raises(ConfigError, match="--replace"):
        run("harvest", *arguments, "--n-ctx", 16, "--store", store, "--quiet")


def test_explain_needs_no_new_tokens_for_what_is_cached(store: Path) -> None:
    # The pipeline asked about at most 4 candidates that fire in 2 windows; here all that fire in 5.
    first = run_json("explain", "--budget", "1M", "--store", store, "--chance-every", 1, "--quiet")
    again = run_json(
        "explain", "--budget", "1M", "--store", store, "--chance-every", 1, "--quiet", "--replay"
    )
    assert again["tokens"] == 0
    assert again["scored"] == first["scored"] > 0


def test_score_by_another_method_adds_scores(store: Path) -> None:
    found = run_json("score", "--scoring", "detection", "--budget", "1M", "--store", store, "--quiet")
    assert found["scored"] + found["undefined"] > 0
    methods = run_json("catalog", "query", "--store", store, "SELECT DISTINCT method FROM scores ORDER BY 1")
    assert {row["method"] for row in methods} >= {"detection", "pooled"}


def test_ledger_sums_by_stage(made: Made, store: Path) -> None:
    rows = run_json("ledger", "--by", "stage", "--store", store)
    assert sum(row["tokens in"] + row["tokens out"] for row in rows) == made.summary.tokens_total


def test_answers_travel_from_store_to_store(store: Path, tmp_path: Path) -> None:
    answers, other = tmp_path / "answers.jsonl", tmp_path / "other.duckdb"
    n = run("cache", "export", answers, "--store", store).stdout.split()[0]
    assert run("cache", "import", answers, "--store", other).stdout.startswith(f"{n} new answers")
    assert run("cache", "import", answers, "--store", other).stdout.startswith("0 new answers")


def test_query_prints_json_csv_and_table(store: Path, tmp_path: Path) -> None:
    sql = 'SELECT sae_id, "index" FROM catalog ORDER BY "index" LIMIT 1'
    (row,) = run_json("catalog", "query", "--store", store, sql)
    assert row["index"] == 0
    assert run("catalog", "query", "--store", store, "--csv", sql).stdout.startswith("sae_id,index\n")
    assert "sae_id" in run("catalog", "query", "--store", store, sql).stdout
    run("catalog", "query", "--store", store, "--parquet", tmp_path / "out.parquet", sql)
    assert (tmp_path / "out.parquet").stat().st_size > 0


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "DROP TABLE scores",
        "COPY scores TO '/tmp/x'",
        "INSTALL httpfs",
    ],
)
def test_query_reads_no_files_and_writes_nothing(store: Path, sql: str) -> None:
    before = store.read_bytes()
    with pytest.raises(ConfigError):
        run("catalog", "query", "--store", store, sql)
    assert store.read_bytes() == before


def test_a_release_is_built_verified_queried_and_imported(store: Path, tmp_path: Path) -> None:
    release = tmp_path / "small.zip"
    built = run_json("catalog", "release", release, "--name", "small", "--store", store)
    assert run_json("catalog", "verify", release)["sha256"] == built["sha256"]
    (count,) = run_json("catalog", "query", "--store", release, "SELECT count(*) AS n FROM catalog")
    assert count["n"] == built["features"]
    other = tmp_path / "other.duckdb"
    report = run_json("catalog", "import", release, "--name", "theirs", "--store", other)
    assert report["new"]["features"] == built["features"]


def test_search_show_and_stats(made: Made, store: Path, tmp_path: Path) -> None:
    rows = run_json(
        "catalog", "query", "--store", store,
        'SELECT "index", explanation FROM catalog WHERE explanation IS NOT NULL LIMIT 1',
    )  # fmt: skip
    word = next(w.strip("“”.,;") for w in rows[0]["explanation"].split() if len(w) > 4)
    assert rows[0]["index"] in {
        h["index"] for h in run_json("catalog", "search", word, "--store", store, "--limit", 50)["hits"]
    }
    by_words = run_json("catalog", "search", word, "--by", "words", "--store", store)
    assert by_words["method"].startswith("by words")
    assert rows[0]["index"] in {h["index"] for h in by_words["hits"]} or len(by_words["hits"]) == 10
    feature = f"{made.summary.sae_id}#{rows[0]['index']}"
    assert run_json("catalog", "show", feature, "--store", store)["explanations"]
    assert feature in run("catalog", "show", feature, "--store", store).stdout
    plot = tmp_path / "stats.png"
    assert made.summary.sae_id in run("catalog", "stats", "--store", store, "--plot", plot).stdout
    assert plot.is_file()


def test_run_prints_the_summary(made: Made) -> None:
    found = run_json("run", made.file, "--out", made.out, "--quiet")
    assert found["tokens_spent"] == 0
    assert "chance line" in run("run", made.file, "--out", made.out, "--quiet").stdout


def test_concepts_check_passes_and_fails(made: Made, tmp_path: Path) -> None:
    assert run_json("concepts", "check", "bundled:data/concepts")["faults"] == []
    bad = tmp_path / "bad.csv"
    bad.write_text(
        "concept,pos,neg\nviolence.x,the same text here,the same text here\nviolence.x,one two,three four\n"
    )
    result = run("concepts", "check", bad)
    assert result.return_value == 1 or result.exit_code == 1
    assert "faults" in result.stdout


def test_concepts_generate_writes_a_set_that_check_passes(tmp_path: Path) -> None:
    out, store = tmp_path / "theft.yaml", tmp_path / "store.duckdb"
    with serving(Writer()) as url:
        command = ["concepts", "generate", "violence.theft", "--definition", "Goods are taken.", "--n", 10,
                   "--budget", "5k", "--model", "m", "--base-url", url, "--store", store, "--quiet"]  # fmt: skip
        report = run(*command, "--out", out)
        assert report.stdout == "violence.theft: 10 of 10 pairs kept (rejected: none) for 500 new tokens\n"
        assert run("concepts", "check", out).exit_code == 0
        printed = run(*command)
        assert printed.stdout == out.read_text()
        assert printed.stderr.endswith("for 0 new tokens\n")
        found = run_json(*command)
        assert (found["tokens"], found["kept"], found["file"]["domain"]) == (0, 10, "violence")
        with pytest.raises(click.UsageError, match="is there already"):
            run(*command, "--out", out)


def test_train_sae_writes_loadable_saes(made: Made, tmp_path: Path) -> None:
    folder = made.file.parent
    arguments = ["--model", folder / "tiny", "--hook", "blocks.1.hook_mlp_out", "--k", "2,4", "--width", "48",
                 "--text", folder / "texts.jsonl", "--tokens", "600", "--out", tmp_path / "trained"]  # fmt: skip
    config = tmp_path / "short.yaml"
    config.write_text(
        f"model: {folder / 'tiny'}\n"
        "families: [{hook: blocks.1.hook_mlp_out, ks: [2, 4], widths: [48]}]\n"
        f"texts: [{{source: {folder / 'texts.jsonl'}}}]\n"
        "n_tokens: 1500\nn_ctx: 32\nblock_tokens: 512\nbatch_tokens: 128\neval_tokens: 400\neval_loss_tokens: 200\n"
    )
    rows = run_json("train-sae", "--config", config, "--out", tmp_path / "trained", "--quiet")
    assert len(rows) == 2
    assert len(list((tmp_path / "trained").glob("*/sae_weights.safetensors"))) == 2
    assert len(run_json("train-sae", *arguments[:-1], tmp_path / "other", "--quiet")) == 2
    wide = ["1.5x" if a == "48" else a for a in arguments[:-1]]  # of the d_model in the folder's config.json
    rows = run_json("train-sae", *wide, tmp_path / "wide", "--quiet", "--device", "cpu")
    assert {row["features"] for row in rows} == {48}
    card = (tmp_path / "wide" / rows[0]["sae"] / "README.md").read_text()
    assert "texts.jsonl | " in card and "gutenberg" not in card.lower()


def test_a_store_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    for command in (("explain", "--budget", "1k"), ("ledger",), ("catalog", "stats")):
        with pytest.raises(NotFoundError, match="no store at"):
            run(*command, "--store", tmp_path / "none.duckdb")


def test_download_export_tag_diff_and_coverage(made: Made, store: Path, tmp_path: Path) -> None:
    release, other = made.out / "release", tmp_path / "other.duckdb"
    run("catalog", "download", release, "--out", tmp_path / "got", "--into", other, "--quiet")
    assert run_json("catalog", "diff", store, other)["moved"] == []
    assert "same" in run("catalog", "diff", store, other).stdout
    assert (
        "explanations written"
        in run("catalog", "export", tmp_path / "x.csv", "--format", "csv", "--store", store).stdout
    )
    (row,) = run_json(
        "catalog", "query", "--store", store, 'SELECT min("index") AS j FROM catalog WHERE score IS NOT NULL'
    )
    feature = f"{made.summary.sae_id}#{row['j']}"
    sql = f'SELECT tags FROM catalog WHERE "index" = {row["j"]}'
    run("catalog", "tag", feature, "weapons", "--severity", 2, "--store", store)
    assert "weapons" in run_json("catalog", "query", "--store", store, sql)[0]["tags"]
    run("catalog", "tag", feature, "weapons", "--remove", "--store", store)
    assert "weapons" not in run_json("catalog", "query", "--store", store, sql)[0]["tags"]
    run("catalog", "tag", feature, "weapons", "--clear", "--store", store)
    found = run_json("catalog", "coverage", "--store", store, "--text", made.file.parent / "texts.jsonl")
    assert {c["concept_id"] for c in found["concepts"]} >= {"violence.knife", "violence.market"}
    assert (
        "texts uncovered"
        in run("catalog", "coverage", "--store", store, "--text", made.file.parent / "texts.jsonl").stdout
    )

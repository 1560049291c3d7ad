"""`safesail diagnose`: one prompt, its files, and two sets of prompts."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from safesail.cli.main import cli
from tests.cli.test_commands import run_json
from tests.pipeline.conftest import Made

PROMPT = "the knife and the river 熊"


@pytest.fixture
def base(made: Made) -> list[str]:
    folder = made.file.parent
    store = str(made.out / "safesail.duckdb")
    return [
        "diagnose",
        "--model",
        str(folder / "tiny"),
        "--sae",
        str(folder / "saes" / "*"),
        "--store",
        store,
        "--quiet",
    ]


def run(arguments: list[str]) -> Any:
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def test_a_prompt_as_table_json_csv_and_html(base: list[str], tmp_path: Path) -> None:
    csv_file, html = tmp_path / "all.csv", tmp_path / "report.html"
    found = run_json(*base, PROMPT, "--csv", csv_file, "--html", html)
    with csv_file.open(encoding="utf-8", newline="") as lines:
        stored = list(csv.DictReader(lines))
    assert len(stored) == len(found["fired"]) > 0
    assert [row["feature"] for row in stored] == [row["feature"] for row in found["fired"]]
    assert [(t["start"], t["end"]) for t in found["tokens"]][-3:] == [(len(PROMPT) - 1, len(PROMPT))] * 3
    assert found["answer"] is None and {row["sae"] for row in found["unexplained"]} == {"tiny-l0", "tiny-l1"}
    assert (
        "the knife" in html.read_text(encoding="utf-8").replace("</span>", "").replace(">", "> ")
        or html.stat().st_size
    )
    table = run([*base, PROMPT, "--all"])
    assert "normalised" in table.stdout and "share_unexplained" in table.stdout


def test_cells_that_a_spreadsheet_would_run_are_guarded(base: list[str], tmp_path: Path) -> None:
    run([*base, "=cmd|'/C calc'!A0", "--csv", str(tmp_path / "x.csv")])
    with (tmp_path / "x.csv").open(encoding="utf-8", newline="") as lines:
        tokens = {row["token"] for row in csv.DictReader(lines) if row["position"] == "0"}
    assert tokens == {"'="}


def test_an_answer(base: list[str]) -> None:
    found = run_json(*base, "the knife", "--generate", "4")
    assert found["answer"] is not None
    assert {t["role"] for t in found["tokens"]} == {"prompt", "answer"}


def test_files_of_prompts_against_each_other(base: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(f"the knife of number {i}" for i in range(8)), encoding="utf-8")
    (tmp_path / "b.jsonl").write_text(
        "".join(json.dumps({"prompt": f"MARKET? 熊 {i}"}) + "\n" for i in range(8)), encoding="utf-8"
    )
    command = [*base, str(tmp_path / "a.txt"), "--against", str(tmp_path / "b.jsonl")]
    found = run_json(*command, "--csv", tmp_path / "c.csv")
    assert (found["prompts_a"], found["prompts_b"], found["reason"]) == (8, 8, None)
    assert found["shown"] == sum(row["q"] <= 0.1 for row in found["features"]) > 0
    with (tmp_path / "c.csv").open(encoding="utf-8", newline="") as lines:
        assert len(list(csv.DictReader(lines))) == len(found["features"])
    table = run([*command, "--translations"])
    assert "unrelated" in table.stdout and "differ at q <= 0.1" in table.stderr


def test_two_prompts_say_why_there_is_no_p(base: list[str]) -> None:
    result = run([*base, "the knife", "--against", "a river"])
    assert result.exit_code == 0
    assert "no p: 1 and 1 prompts" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x", "--translations"], "--translations needs --against"),
        (["x", "--against", "y", "--html", "r.html"], "--path and --target are for one prompt"),
        (["x" * 99], "the prompt has 99 tokens"),
        ([""], "the prompt has no token"),
        (["x", "--chat"], "has no chat template"),
        (["x", "--sae", "nowhere/at/all"], "nowhere/at/all"),
    ],
)
def test_bad_input_is_a_line(base: list[str], arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "safesail", *base, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode in (1, 2)
    assert message in done.stderr and "Traceback" not in done.stderr

"""The command line starts fast, and says what is wrong in one line."""

import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from safesail.cli.main import cli

HEAVY = {
    "torch",
    "duckdb",
    "transformers",
    "transformer_lens",
    "sae_lens",
    "openai",
    "datasets",
    "pandas",
    "numpy",
    "pyarrow",
    "matplotlib",
}


@pytest.mark.parametrize("statement", ["import safesail", "import safesail.cli.main"])
def test_importing_loads_nothing_heavy(statement: str) -> None:
    code = f"{statement}; import sys; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert HEAVY.isdisjoint(loaded)


def test_help_names_the_stages_in_their_order() -> None:
    text = safesail("--help").stdout
    places = [text.index(f"\n  {name} ") for name in ("select-sae", "harvest", "explain", "catalog")]
    assert places == sorted(places)


def test_a_fault_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    done = safesail("catalog", "query", "--store", str(tmp_path / "none.duckdb"), "SELECT 1")
    assert done.returncode == 1
    assert done.stderr == (
        f"error: no store at {tmp_path / 'none.duckdb'}; name one with --store, or make one with `safesail run`\n"
    )


def test_wrong_usage_is_exit_code_2() -> None:
    assert safesail("harvest", "--n-ctx", "x").returncode == 2


BROKEN = """
from safesail.cli.main import cli, main

@cli.command()
def broken():
    raise ZeroDivisionError("of all\\x1b[2J\\nthings")

main()
"""


def test_what_nobody_foresaw_is_one_line_and_its_trace_is_kept_for_debug() -> None:
    done = run(BROKEN, "broken")
    assert done.returncode == 1
    assert done.stderr == (
        "error: unexpected ZeroDivisionError: of all things; `safesail --debug ...` shows where it arose\n"
    )
    traced = run(BROKEN, "--debug", "broken")
    assert traced.returncode == 1
    assert "in broken\n" in traced.stderr
    assert "\x1b" not in traced.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (
            "concepts",
            "generate",
            "x",
            "--definition",
            "d",
            "--budget",
            "1k",
            "--store",
            "/proc/no/store.duckdb",
        ),
        ("harvest", "--sae", "s", "--text", "/proc/self/mem"),
        ("run", "deep.yaml"),
        ("concepts", "check", "deep.yaml"),
        ("concepts", "check", "deep.jsonl"),
    ],
)
def test_what_cannot_be_read_or_written_is_one_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "deep.yaml").write_text("[" * 100_000, encoding="utf-8")
    (tmp_path / "deep.jsonl").write_text("[" * 200_000, encoding="utf-8")
    done = run("from safesail.cli.main import main; main()", *arguments, folder=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(r"error: (?!unexpected)[^\n]+\n", done.stderr), done.stderr


def safesail(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run("from safesail.cli.main import main; main()", *arguments)


def run(code: str, *arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def leaves(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, *path, name)
        else:
            yield (*path, name)


@pytest.mark.parametrize("command", list(leaves(cli)), ids=" ".join)
def test_the_help_of_every_command_has_an_example_of_it(command: tuple[str, ...]) -> None:
    text = CliRunner().invoke(cli, [*command, "--help"]).output
    heading, example = re.search(r"\n  (Examples?:)\n((?:      .+\n)+)", text).groups()  # pyright: ignore[reportOptionalMemberAccess]
    assert f"safesail {' '.join(command)}" in example
    assert heading == ("Examples:" if example.count(f"safesail {' '.join(command)}") > 1 else "Example:")
    lines = example.splitlines()
    for line, following in pairwise(lines):  # what goes on, goes on as a shell reads it
        assert line.endswith(" \\") == following.startswith("          ")


def test_help_shows_examples_line_by_line() -> None:
    text = safesail("explain", "--help").stdout
    assert "Examples:\n      safesail explain --budget 10k --dry-run\n" in text

"""The command line starts fast, and says what is wrong in one line."""

import subprocess
import sys
from pathlib import Path

import pytest

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


def safesail(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from safesail.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )


def test_help_shows_examples_line_by_line() -> None:
    text = safesail("explain", "--help").stdout
    assert "Examples:\n      safesail explain --budget 10k --dry-run\n" in text

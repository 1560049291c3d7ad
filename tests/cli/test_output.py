"""Results as people and programs read them; shared options."""

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from safesail.cli.options import (
    Count,
    device_options,
    json_option,
    model_option,
    parse_count,
    quiet_option,
    store_option,
)
from safesail.cli.output import plain, print_json, print_table, shown
from safesail.domain.ids import FeatureId
from safesail.domain.undefined import Undefined


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, "-"), (True, "yes"), (False, "no"), (0, "0"), (1234567, "1,234,567"), (0.0, "0.000"),
        (0.5, "0.500"), (-2.25, "-2.250"), (0.00042, "4.2e-04"), (-0.00042, "-4.2e-04"),
        (["a", None, 2], "a, -, 2"), ((), ""), ("text", "text"), (Path("a/b"), "a/b"),
    ],
)  # fmt: skip
def test_a_value_as_people_read_it(cell: Any, text: str) -> None:
    assert shown(cell) == text


def test_records_become_plain() -> None:
    value = {"f": FeatureId("s", 3), 1: (Path("p"), None), "set": frozenset({2}), "no": Undefined("flat")}
    assert plain(value) == {
        "f": {"sae_id": "s", "index": 3}, "1": ["p", None], "set": [2], "no": {"reason": "flat"},
    }  # fmt: skip


def test_json_keeps_text_and_refuses_nan(capsys: pytest.CaptureFixture[str]) -> None:
    print_json([FeatureId("é", 1)])
    out = capsys.readouterr().out
    assert "é" in out
    assert json.loads(out) == [{"sae_id": "é", "index": 1}]
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_json(float("nan"))


def test_a_table_in_a_pipe_is_a_line_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    long = "word " * 100
    print_table([{"name": long, "n": 1}, {"n": 20000, "name": "[bold]b[/bold]"}])
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "n"]
    assert first.split() == [*long.split(), "1"]
    assert second.split() == ["[bold]b[/bold]", "20,000"]
    assert first.rstrip().endswith("     1")


def test_an_empty_table_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([])
    assert capsys.readouterr().out == "nothing to show\n"


@pytest.mark.parametrize(
    ("text", "count"),
    [("7", 7), ("500k", 500_000), ("500K", 500_000), ("1.5M", 1_500_000), ("2b", 2 * 10**9)],
)
def test_counts(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "k", "0", "-5", "0.2", "nan", "inf", "5x", "five", "5 kk"])
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a count such as 5000, 500k or 2M"):
        parse_count(text)


@click.command()
@store_option()
@json_option()
@quiet_option()
@model_option()
@device_options
@click.option("--tokens", type=Count(), default=5)
def echo(**given: Any) -> None:
    """Prints what it was given."""
    print_json(given)


def given(*arguments: str, **env: str) -> dict[str, Any]:
    result = CliRunner().invoke(echo, arguments, env=env)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_defaults_of_the_shared_options() -> None:
    assert given(SAFESAIL_STORE="") == {
        "store": "safesail.duckdb", "as_json": False, "quiet": False, "model": "smollm2",
        "device": "auto", "dtype": "float32", "threads": None, "tokens": 5,
    }  # fmt: skip


def test_the_shared_options_given() -> None:
    assert given("--json", "-q", "-m", "x", "--tokens", "2k", "--threads", "2", "--dtype", "bfloat16",
                 SAFESAIL_STORE="e.duckdb") == {
        "store": "e.duckdb", "as_json": True, "quiet": True, "model": "x",
        "device": "auto", "dtype": "bfloat16", "threads": 2, "tokens": 2000,
    }  # fmt: skip
    assert given("--store", "o.duckdb", SAFESAIL_STORE="e.duckdb")["store"] == "o.duckdb"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--tokens", "few"], "'few' is not a count"), (["--threads", "0"], "0 is not in the range"),
     (["--dtype", "int8"], "'int8' is not one of"), (["--store", "."], "is a directory")],
)  # fmt: skip
def test_wrong_options(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(echo, arguments)
    assert result.exit_code == 2
    assert message in result.stderr

"""`safesail intervene`: what it prints, and one line for what cannot be."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from safesail.cli.main import cli
from safesail.errors import SafeSailError
from tests.pipeline.conftest import Made
from tests.pipeline.conftest import made as made


@pytest.fixture
def common(made: Made, tmp_path: Path) -> list[str]:
    """Options: a copy of the store, the tiny model and its SAEs."""
    store = tmp_path / "store.duckdb"
    shutil.copy(made.out / "safesail.duckdb", store)
    folder = made.file.parent
    return [
        "--store",
        str(store),
        "--model",
        str(folder / "tiny"),
        "--sae",
        str(folder / "saes" / "*"),
        "--quiet",
    ]


def run(*arguments: str) -> str:
    return CliRunner().invoke(cli, ["intervene", *arguments], catch_exceptions=False).stdout


def test_measured_and_shown(common: list[str], tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(yaml.safe_dump({
        "n_texts": 4, "n_neutral": 4, "context": 6, "edited": 2, "n_null_features": 3, "n_random": 1, "draws": 20,
    }))  # fmt: skip
    told = json.loads(run("--top", "2", "--config", str(config), "--json", *common))
    assert told["new"] == 2
    assert [
        set(row) >= {"feature", "effect", "ablate", "ablate_q", "likelier"} for row in told["features"]
    ] == [True] * 2
    text = run("--feature", told["features"][0]["feature"], "--config", str(config), *common)
    assert "shown to do something: " in text


def test_with_and_without_side_by_side(common: list[str], made: Made) -> None:
    feature = f"{made.summary.sae_id}#3"
    told = json.loads(run("--generate", "the knife", "--feature", feature, "--strength", "30", "--json",
                          "--max-tokens", "6", *common))  # fmt: skip
    clean, edited = told["continuations"]
    assert (clean["edit"], edited["edit"]) == ("none", "steer:30.0")
    assert clean["continuation"] != edited["continuation"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "no feature to measure; name one with --feature"),
        (("--feature", "tiny-l0#3", "--strength", "nan"), "the strength 'nan' is not a finite number"),
        (("--feature", "tiny-l0"), "'tiny-l0' is not a feature; write SAE#INDEX"),
        (("--feature", "other#3"), "no SAE 'other' at "),
        (("--generate", "x", "--feature", "tiny-l0#3"), "say what becomes of the feature"),
        (
            ("--generate", "x", "--feature", "tiny-l0#3", "--change", "twice"),
            "'twice' is no change of a feature",
        ),
        (("--feature", "tiny-l0#3", "--text", "/nowhere.txt"), "/nowhere.txt"),
    ],
)
def test_what_cannot_be_is_one_line(common: list[str], arguments: tuple[str, ...], says: str) -> None:
    with pytest.raises(SafeSailError) as error:
        run(*arguments, *common)
    assert says in str(error.value)
    assert "\n" not in str(error.value)

"""`import safesail`: instant, with a pinned list of names, and a notebook's few lines on real models and stores."""

import asyncio
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import safesail
from safesail.autointerp.report import RunReport
from safesail.catalog.api import Catalog
from safesail.errors import ConfigError, FingerprintError
from safesail.store.connection import open_writer
from tests.pipeline.conftest import Made
from tests.pipeline.conftest import made as made

PROMPT = "the knife and the river near a market"


def test_the_names_that_are_offered() -> None:
    assert safesail.__all__ == [
        "LoadedModel", "__version__", "diagnose", "download", "explain", "load", "measure_effects", "open_catalog",
        "release", "run", "score",
    ]  # fmt: skip
    for name in safesail.__all__:
        assert getattr(safesail, name).__doc__
    assert dir(safesail) == safesail.__all__
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = safesail.nothing  # pyright: ignore[reportAttributeAccessIssue]


def test_an_open_catalog_needs_no_torch(made: Made) -> None:
    code = (
        "import sys, safesail\n"
        f"with safesail.open_catalog({str(made.out / 'release')!r}) as catalog: print(len(catalog.features()))\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == made.summary.features_explained


def test_the_package_is_a_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "safesail", "--version"], capture_output=True, text=True, check=False
    )
    assert done.stdout == f"safesail, version {safesail.__version__}\n"


@pytest.fixture(scope="module")
def model(made: Made) -> safesail.LoadedModel:
    folder = made.file.parent
    return safesail.load(
        str(folder / "tiny"), [str(folder / "saes" / "*")], catalog=made.out / "safesail.duckdb"
    )


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows; what is missing is None."""
    return [
        {str(k): None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
        for row in frame.to_dict("records")
    ]


def test_features_of_a_prompt(made: Made, model: safesail.LoadedModel) -> None:
    frame = model.features(PROMPT)
    assert list(frame.columns) == [
        "position", "token", "sae", "layer", "feature", "value", "normalised", "explanation", "score",
    ]  # fmt: skip
    rows = records(frame)
    assert "".join({row["position"]: row["token"] for row in rows}.values()) == PROMPT
    assert all(row["value"] > 0 for row in rows)
    assert {row["layer"] for row in rows} == {0, 1}
    assert [row["position"] for row in rows] == sorted(row["position"] for row in rows)

    with safesail.open_catalog(made.out / "safesail.duckdb") as catalog:
        features = records(catalog.query("SELECT sae_id, feature, q999 FROM features"))
        explained = records(catalog.query("SELECT * FROM catalog WHERE explanation IS NOT NULL"))
    q999 = {f"{row['sae_id']}#{row['feature']}": row["q999"] for row in features}
    for row in rows:
        known = q999.get(row["feature"])
        assert row["normalised"] == (None if known is None else pytest.approx(row["value"] / known))
    assert any(row["normalised"] for row in rows)
    scores = {f"{row['sae_id']}#{row['index']}": row["score"] for row in explained}
    told = {row["feature"]: row["score"] for row in rows if row["explanation"] is not None}
    assert told == {feature: scores[feature] for feature in told} != {}


def test_values_are_those_of_a_harvest(made: Made, model: safesail.LoadedModel) -> None:
    text = json.loads((made.file.parent / "texts.jsonl").read_text().splitlines()[0])["text"]
    with safesail.open_catalog(made.out / "safesail.duckdb") as catalog:
        windows = records(
            catalog.query(
                "SELECT e.* FROM exemplars e JOIN documents d USING (document_id) JOIN windows w USING (document_id,"
                f" window_id) WHERE w.start = 0 AND d.text = '{text}'"
            )
        )
    stored = {
        (f"{window['sae_id']}#{window['index']}", position): value
        for window in windows
        for position, value in zip(window["positions"], window["activations"], strict=True)
    }
    n_ctx = len(windows[0]["tokens"])
    values = {
        (row["feature"], row["position"]): row["value"]
        for row in records(model.features(text))
        if row["sae"] == made.summary.sae_id and row["position"] < n_ctx
    }
    assert values == pytest.approx(stored, rel=1e-4)


def test_without_a_catalog_what_is_not_known_is_missing(made: Made) -> None:
    folder = made.file.parent
    rows = records(safesail.load(str(folder / "tiny"), [str(folder / "saes" / "tiny-l0")]).features(PROMPT))
    assert {row[name] for row in rows for name in ("normalised", "explanation", "score")} == {None}


def test_a_prompt_that_is_too_long_or_empty_is_refused(model: safesail.LoadedModel) -> None:
    for prompt in ("", "word " * 500):
        with pytest.raises(
            ConfigError, match=r"the prompt has (no token; give a text|\d+ tokens; .* takes \d+: shorten it)"
        ):
            model.features(prompt)


def test_a_catalog_of_another_sae_of_that_name_is_refused(made: Made, tmp_path: Path) -> None:
    store = tmp_path / "other.duckdb"
    shutil.copy(made.out / "safesail.duckdb", store)
    with open_writer(store) as db:
        db.execute("UPDATE saes SET sha256 = 'b' || substr(sha256, 2)")
    folder = made.file.parent
    with pytest.raises(FingerprintError, match="knows another SAE by the name tiny-l0"):
        safesail.load(str(folder / "tiny"), [str(folder / "saes" / "tiny-l0")], catalog=store)


def test_stages_as_functions(made: Made, tmp_path: Path) -> None:
    store = tmp_path / "store.duckdb"
    shutil.copy(made.out / "safesail.duckdb", store)
    explained = safesail.explain(store, budget="1M", n_features=3)
    assert explained.explained

    async def cell() -> RunReport:  # a notebook runs its cells inside a loop
        return safesail.score(store, budget="1M", n_features=2, scoring={"method": "detection"})

    scored = asyncio.run(cell())
    assert len(scored.scored) + len(scored.undefined) == 2
    built = safesail.release(store, tmp_path / "release", name="mine")
    assert built.name == "mine"
    copied = safesail.download(str(tmp_path / "release"), tmp_path / "copy")
    with safesail.open_catalog(copied) as catalog:
        assert isinstance(catalog, Catalog)
        feature = str(catalog.features()["sae_id"][0]) + f"#{catalog.features()['index'][0]}"
        assert catalog.show(feature).sae_id == made.summary.sae_id
    assert safesail.run(made.file, made.out).tokens_spent == 0

"""The wheel, installed into an empty environment outside the checkout, works without the checkout."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from safesail.store.bulk import insert
from safesail.store.connection import open_writer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (found,) = out.glob("*.whl")
    return found


def test_wheel_carries_prompts_pipelines_and_data(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "data/models.yaml",
        "data/concepts/terror.yaml",
        "pipelines/demo.yaml",
        "prompts/explain/v1.j2",
    ):
        assert f"safesail/_bundled/{needed}" in names
    for needed in ("templates/layout.html", "static/view.css", "static/map.js"):
        assert f"safesail/view/{needed}" in names
    assert [n for n in names if n.endswith("sae_weights.safetensors")]
    assert not [n for n in names if n.startswith("tests/") or ".duckdb" in n or "/runs/" in n]


def test_installed_wheel_runs_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    # Compiling every file of every dependency takes longer than all the rest.
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    subprocess.run(
        [*install, "-c", str(ROOT / "constraints.txt"), str(wheel)], check=True, capture_output=True
    )
    store = tmp_path / "elsewhere" / "made.duckdb"
    with open_writer(store) as db:
        insert(
            db,
            "saes",
            {
                "sae_id": ["s"],
                "sae_key": [1],
                "model_id": ["m"],
                "layer": [3],
                "hook": ["blocks.3.hook_mlp_out"],
                "source": ["test"],
            },
        )
        insert(db, "features", {"sae_id": ["s"], "feature": [7], "density": [0.25]})

    def safesail(*arguments: str) -> str:
        command = [str(tmp_path / "env" / "bin" / "safesail"), *arguments]
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "SAFESAIL_CACHE": str(tmp_path / "cache"),
        }
        done = subprocess.run(
            command, cwd=store.parent, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "select-sae" in safesail("--help")
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in safesail("models", "--json")
    found = safesail(
        "catalog", "query", "--store", "made.duckdb", "--json", 'SELECT layer, "index", density FROM catalog'
    )
    assert '"index": 7' in found
    assert '"density": 0.25' in found
    assert "4 pages" in safesail("view", "--quiet", "--store", "made.duckdb", "--export", "pages")
    assert (store.parent / "pages" / "static" / "view.css").is_file()

"""What a command can know to be wrong it says before torch is imported and anything is loaded."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_model import write_tiny_model

TELL = """
import sys
from safesail.cli.main import main
try:
    code = main()
except SystemExit as end:
    code = end.code
print(code, "torch" in sys.modules)
"""


def tried(folder: Path, *arguments: str) -> tuple[str, str]:
    """A command in a process of its own: its exit code and whether it imported torch; its message."""
    done = subprocess.run(
        [sys.executable, "-c", TELL, *arguments], capture_output=True, text=True, cwd=folder, check=True
    )
    return done.stdout.splitlines()[-1], done.stderr.strip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("early")
    write_tiny_model(folder / "tiny")
    for name, d_in, layer, maker in (
        ("fits", 32, 1, "tiny"), ("wide", 576, 1, "HuggingFaceTB/SmolLM2-135M-Instruct"), ("deep", 32, 9, "tiny"),
    ):  # fmt: skip
        (folder / name).mkdir()
        config = {
            "d_in": d_in,
            "d_sae": 64,
            "metadata": {"hook_name": f"blocks.{layer}.hook_mlp_out", "model_name": maker},
        }
        (folder / name / "cfg.json").write_text(json.dumps(config), encoding="utf-8")
        (folder / name / "sae_weights.safetensors").touch()
    (folder / "broken").mkdir()
    (folder / "broken" / "cfg.json").write_text("{", encoding="utf-8")
    (folder / "broken" / "sae_weights.safetensors").touch()
    (folder / "good.jsonl").write_text('{"text": "a heron waits"}\n', encoding="utf-8")
    (folder / "bad.jsonl").write_text('{"text": "a heron"}\n{"text": \n', encoding="utf-8")
    (folder / "empty.txt").write_text(" \n", encoding="utf-8")
    return folder


HARVEST = ["harvest", "--model", "tiny", "--sae"]
TRAIN = ["train-sae", "--model", "tiny", "--k", "4", "--tokens", "1k", "--out", "out"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*HARVEST, "fits", "--text", "none.txt"], "no text at none.txt"),
        ([*HARVEST, "fits", "--text", "empty.txt"], "no text in empty.txt"),
        ([*HARVEST, "fits", "--text", "bad.jsonl"], "bad.jsonl"),
        ([*HARVEST, "nothing", "--text", "good.jsonl"], "no SAE matches nothing"),
        ([*HARVEST, "not/here", "--text", "good.jsonl"], "no SAE at not/here: not a folder with cfg.json"),
        ([*HARVEST, "broken", "--text", "good.jsonl"], "cfg.json is no JSON"),
        ([*HARVEST, "wide", "--text", "good.jsonl"], "wide reads 576 numbers per token, tiny has 32"),
        ([*HARVEST, "wide", "--text", "good.jsonl"], "use --model smollm2"),
        ([*HARVEST, "deep", "--text", "good.jsonl"], "which tiny with 3 layers does not have"),
        (["select-sae", "--model", "tiny", "--sae", "wide"], "wide reads 576 numbers per token"),
        (["select-sae", "--model", "tiny", "--sae", "fits", "--plot", "st.foo"], "written as .png, .svg, .pdf"),
        ([*TRAIN, "--hook", "blocks.1.hook_mlp_outt", "--text", "good.jsonl"], "did you mean blocks.1.hook_mlp_out"),
        ([*TRAIN, "--hook", "blocks.7.hook_mlp_out", "--text", "good.jsonl"], "its layers are 0 to 2"),
        ([*TRAIN, "--hook", "blocks.1.hook_mlp_out", "--text", "none.txt"], "no text at none.txt"),
    ],
)  # fmt: skip
def test_it_is_said_in_one_line_and_nothing_is_loaded(
    folder: Path, arguments: list[str], message: str
) -> None:
    state, said = tried(folder, *arguments)
    assert state == "1 False", said
    assert message in said
    assert "\n" not in said
    assert not (folder / "out").exists()

"""What is refused before, or while, a model is loaded: one line each, and never any code that lies in a folder."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from safesail.errors import ConfigError, SubjectError
from safesail.subject.causal import CausalModel
from safesail.subject.encoder import TextEncoder
from safesail.subject.loading import ModelConfig, choose_device, load_subject
from safesail.subject.sizes import check_hook_name, sizes_of
from tests.tiny_model import D_MODEL, N_LAYERS

MARKER = "was-here"
CODE = f"""from pathlib import Path
Path(__file__).with_name("{MARKER}").write_text("ran")
Path("{MARKER}").write_text("ran")
from transformers import LlamaConfig as MyConfig, LlamaForCausalLM as MyModel, PreTrainedTokenizerFast as MyTokenizer
"""


def with_code(folder: Path, out: Path, file: str) -> Path:
    """The model with an `auto_map` in one of its settings, its own type, and the Python file that this names."""
    shutil.copytree(folder, out)
    (out / "own.py").write_text(CODE, encoding="utf-8")
    settings = json.loads((out / file).read_text(encoding="utf-8"))
    if file == "config.json":
        settings["auto_map"] = {"AutoConfig": "own.MyConfig", "AutoModelForCausalLM": "own.MyModel"}
        settings["model_type"] = "own"
    else:
        settings["auto_map"] = {"AutoTokenizer": ["own.MyTokenizer", None]}
        settings["tokenizer_class"] = "MyTokenizer"
    (out / file).write_text(json.dumps(settings), encoding="utf-8")
    return out


@pytest.mark.parametrize(
    ("kind", "file", "loads"),
    [
        ("tiny_dir", "config.json", False),
        ("encoder_dir", "config.json", False),
        ("tiny_dir", "tokenizer_config.json", False),
        ("encoder_dir", "tokenizer_config.json", True),  # transformers has a tokenizer for the type
    ],
)
def test_a_folder_with_code_is_refused_and_nothing_asks_the_piped_text(
    kind: str, file: str, loads: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = with_code(request.getfixturevalue(kind), tmp_path / "model", file)
    load = (
        "import sys; from safesail.errors import SubjectError; "
        "from safesail.subject.loading import ModelConfig, load_subject\n"
        f"try: load_subject(ModelConfig({str(folder)!r}, 'cpu'))\n"
        "except SubjectError as error: print('refused:', error)\n"
        "print('left:', sys.stdin.read())"
    )
    done = subprocess.run(
        [sys.executable, "-c", load],
        input="y\ny\ntext\n",
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    refused, _, left = done.stdout.partition("left: ")
    assert left == "y\ny\ntext\n\n"  # nothing of it was taken for an answer
    if loads:
        assert refused == ""
    else:
        assert refused.startswith("refused: cannot load model")
        assert "needs Python code of its own, which is never run" in refused
    assert not list(tmp_path.rglob(MARKER))


def test_a_model_that_transformers_knows_needs_no_code_though_a_folder_has_some(
    tiny_dir: Path, tmp_path: Path
) -> None:
    folder = with_code(tiny_dir, tmp_path / "model", "config.json")
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(settings | {"model_type": "llama"}), encoding="utf-8")
    assert isinstance(load_subject(ModelConfig(str(folder), "cpu")), CausalModel)
    assert not (folder / MARKER).exists()


@pytest.mark.parametrize("name", ["cuda", "cuda:7", "gpu", ""])
def test_a_device_that_is_not_here_is_one_line(name: str) -> None:
    if name == "cuda" and torch.cuda.is_available():
        pytest.skip("a CUDA GPU is here")
    with pytest.raises(
        ConfigError, match=f"torch cannot use device '{name}' on this machine; use auto, cpu"
    ) as caught:
        load_subject(ModelConfig("no-such-model", device=name))
    assert len(str(caught.value)) < 120
    assert choose_device("cpu") == "cpu"


def test_a_token_that_the_model_does_not_know_is_named(tiny_dir: Path, encoder_dir: Path) -> None:
    for folder in (tiny_dir, encoder_dir):
        model = load_subject(ModelConfig(str(folder), "cpu"))
        with pytest.raises(
            SubjectError, match=r"its tokenizer gives number 5000: the tokenizer belongs to another"
        ):
            model.run(torch.tensor([[5, 5000]]), capture=["blocks.0.hook_resid_post"])


def test_weights_of_other_shapes_than_the_config_says_are_one_line(tiny_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_dir, tmp_path / "m")
    settings = json.loads((tmp_path / "m" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "m" / "config.json").write_text(json.dumps(settings | {"vocab_size": 100}), encoding="utf-8")
    with pytest.raises(
        SubjectError, match=r"its weights have other shapes than its config\.json says; fetch"
    ):
        load_subject(ModelConfig(str(tmp_path / "m"), "cpu"))


def test_sizes_are_known_from_the_config_alone(tiny_dir: Path, encoder_dir: Path, tmp_path: Path) -> None:
    for folder in (tiny_dir, encoder_dir):
        bare = tmp_path / folder.name
        shutil.copytree(folder, bare)
        (bare / "model.safetensors").write_bytes(b"no weights")
        sizes = sizes_of(str(bare))
        assert sizes is not None
        assert (sizes.d_model, sizes.n_layers) == (D_MODEL, N_LAYERS)
        check_hook_name(f"blocks.{N_LAYERS - 1}.hook_mlp_out", str(bare))
        with pytest.raises(ConfigError, match=r"no hook 'blocks\.3\.hook_mlp_out': its layers are 0 to 2"):
            check_hook_name(f"blocks.{N_LAYERS}.hook_mlp_out", str(bare))
    assert sizes_of("some-one/some-model") is None
    llama = sizes_of("llama")
    assert llama is not None
    assert (llama.d_model, llama.n_layers) == (4096, 32)


@pytest.mark.parametrize("content", ["{", "[1]", "[" * 100_000])
def test_a_damaged_config_is_one_line(content: str, tiny_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_dir, tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(SubjectError, match=r"config\.json") as caught:
        load_subject(ModelConfig(str(tmp_path / "m"), "cpu"))
    assert "\n" not in str(caught.value)


def test_an_encoder_and_a_language_model_are_told_apart(tiny_dir: Path, encoder_dir: Path) -> None:
    assert isinstance(load_subject(ModelConfig(str(tiny_dir), "cpu")), CausalModel)
    assert isinstance(load_subject(ModelConfig(str(encoder_dir), "cpu")), TextEncoder)

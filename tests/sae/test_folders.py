"""What is refused from names and settings alone."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from safesail.errors import ConfigError, SaeError
from safesail.sae.checkpoint import open_checkpoint
from safesail.sae.checkpoint_config import CheckpointConfig
from safesail.sae.folders import check_saes
from safesail.sae.load import open_sae
from safesail.sae.settings import CONFIG, find_saes
from tests.tiny_model import D_MODEL, write_tiny_model

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny"))


def set_config(folder: Path, **changes: object) -> Path:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("made_for", "hint"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "--model smollm2"),
        ("my/model", "--model my/model"),
        (None, "the model"),
    ],
)
def test_an_sae_of_another_model_names_the_right_one(
    made_for: str | None, hint: str, write_sae: Write, model_dir: str
) -> None:
    metadata = {"hook_name": "blocks.1.hook_mlp_out", "model_name": made_for}
    folder = write_sae("other", metadata=metadata)
    (folder / "sae_weights.safetensors").write_bytes(b"never read")
    with pytest.raises(
        SaeError, match=rf"other reads 6 numbers per token, {model_dir} has {D_MODEL}; use {hint}"
    ):
        check_saes([str(folder)], model_dir)


def test_a_layer_that_the_model_lacks(write_sae: Write, model_dir: str) -> None:
    folder = set_config(
        write_sae("deep"), d_in=D_MODEL, metadata={"hook_name": "blocks.9.hook_mlp_out", "model_name": "gpt2"}
    )
    with pytest.raises(
        SaeError, match=r"deep sits at blocks\.9\.hook_mlp_out.* with 3 layers.*; use --model gpt2"
    ):
        check_saes([str(folder)], model_dir)
    set_config(folder, metadata={"hook_name": "blocks.2.hook_mlp_out"})
    assert check_saes([str(folder)], model_dir) == [str(folder)]


def test_an_sae_of_a_known_alias_needs_no_model_files(
    write_sae: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SaeError, match="a reads 6 numbers per token, llama has 4096; use --model tiny"):
        check_saes([str(write_sae("a"))], "llama")


@pytest.mark.parametrize("k", [0, -1, 21])
def test_a_k_that_cannot_be(k: int, write_sae: Write, model_dir: str) -> None:
    folder = set_config(write_sae("a"), k=k)
    for refuse in (lambda: check_saes([str(folder)], model_dir), lambda: open_sae(str(folder), model=None)):
        with pytest.raises(SaeError, match=rf"k = {k} of 20 features cannot be; correct k in its cfg\.json"):
            refuse()


@pytest.mark.parametrize("name", ["k", "d_in", "d_sae"])
@pytest.mark.parametrize("value", ["x", [4], True, {}])
def test_a_size_that_is_no_number(name: str, value: object, write_sae: Write, model_dir: str) -> None:
    folder = set_config(write_sae("a"), **{name: value})
    with pytest.raises(SaeError, match=rf"a: {name} = .* is no number; correct it in its cfg\.json"):
        check_saes([str(folder)], model_dir)


def test_a_k_above_the_features_of_a_checkpoint(tmp_path: Path) -> None:
    weights = {
        "pre_encoder_bias._bias_reference": torch.zeros(1, 6), "encoder.weight": torch.zeros(1, 6, 20),
        "encoder.bias": torch.zeros(1, 20),
    }  # fmt: skip
    torch.save(weights, tmp_path / "a.pt")
    config = CheckpointConfig(hook="blocks.1.hook_mlp_out", k=21)
    with pytest.raises(SaeError, match="k = 21 of 20 features cannot be"):
        open_checkpoint(tmp_path / "a.pt", model=None, config=config)


@pytest.mark.parametrize(
    "spec", ["{release}/x", "{0.__class__}/{1}", "$(id)/x", "{'a': 1}", "a/b c", "../up/and"]
)
def test_a_name_that_no_release_has_goes_to_no_library(spec: str, model_dir: str) -> None:
    assert find_saes([spec]) == []
    with pytest.raises(ConfigError, match="no SAE matches"):
        check_saes([spec], model_dir)
    with pytest.raises(SaeError, match="no SAE at"):
        open_sae(spec, model=None)


def test_a_release_stays_as_it_is() -> None:
    for spec in ("gemma-scope-2b-pt-mlp/layer_12/width_16k/average_l0_60", "llama_scope_lxr_8x/l0r_8x"):
        assert find_saes([spec]) == [spec]


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000])
def test_damaged_settings_are_one_line(content: str, write_sae: Write, model_dir: str) -> None:
    folder = write_sae("a")
    (folder / CONFIG).write_text(content, encoding="utf-8")
    for refuse in (lambda: check_saes([str(folder)], model_dir), lambda: open_sae(str(folder), model=None)):
        with pytest.raises(SaeError, match=r"no JSON|must be a JSON object") as caught:
            refuse()
        assert "\n" not in str(caught.value)


def test_the_check_loads_no_torch() -> None:
    check = (
        "import sys; from safesail.sae.folders import check_saes; from safesail.subject.sizes import check_hook_name\n"
        "check_hook_name('blocks.3.hook_mlp_out', 'llama')\n"
        "print([name for name in ('torch', 'transformers', 'sae_lens') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

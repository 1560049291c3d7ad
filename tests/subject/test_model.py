from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from safesail.errors import SubjectError
from safesail.subject.causal import CausalModel
from safesail.subject.loading import ModelConfig, load_subject
from safesail.subject.protocol import Intervention
from safesail.subject.rows import mean_loss
from tests.tiny_model import D_MODEL, N_CTX, N_LAYERS

MLP, RESID = "blocks.1.hook_mlp_out", "blocks.1.hook_resid_post"
IDS = torch.tensor([[10, 20, 30, 40, 50], [60, 70, 80, 90, 100]])


def n_hooks(model: CausalModel) -> int:
    """Torch hooks on all modules: TransformerLens' own, plus any that was left behind."""
    bridge = model._bridge  # pyright: ignore[reportPrivateUsage]
    return sum(len(module._forward_hooks) for module in bridge.modules())  # pyright: ignore[reportPrivateUsage]


def plain(folder: Path, ids: Tensor) -> dict[str, Tensor]:
    """The same activations from transformers alone, BOS (id 0) put before every row."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert isinstance(model, LlamaForCausalLM)
    seen: dict[str, Tensor] = {}

    def keep(module: torch.nn.Module, inputs: Any, output: Tensor) -> None:
        seen[MLP] = output

    model.get_submodule("model.layers.1.mlp").register_forward_hook(keep)
    rows = torch.cat([torch.zeros(len(ids), 1, dtype=torch.long), ids], dim=1)
    with torch.no_grad():
        out = model(rows, output_hidden_states=True)
    seen[RESID] = out.hidden_states[2]
    seen["logits"] = out.logits
    return seen


def test_what_is_known_of_the_model(tiny: CausalModel, tiny_dir: Path) -> None:
    assert (tiny.info.d_model, tiny.info.n_layers) == (D_MODEL, N_LAYERS)
    assert tiny.info.model_id == str(tiny_dir)
    assert len(tiny.info.fingerprint) == 64
    assert tiny.prefix == (0,)
    assert tiny.n_ctx_max == N_CTX - 1


def test_activations_equal_those_of_transformers(tiny: CausalModel, tiny_dir: Path) -> None:
    captured = tiny.run(IDS, capture=[RESID, MLP]).activations
    expected = plain(tiny_dir, IDS)
    assert list(captured) == [RESID, MLP]
    for hook, activations in captured.items():
        assert activations.shape == (2, 5, D_MODEL)
        torch.testing.assert_close(activations, expected[hook][:, 1:], atol=1e-5, rtol=1e-5)


def test_the_run_ends_at_the_deepest_hook(tiny_dir: Path) -> None:
    tiny = load_subject(ModelConfig(str(tiny_dir), device="cpu"))
    assert isinstance(tiny, CausalModel)
    hooks = ["blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"]
    tiny.run(IDS, capture=hooks)  # the first time they are compared with the bridge's
    ended: list[int] = []
    layers = tiny._model.model.get_submodule("model.layers")  # pyright: ignore[reportPrivateUsage]
    for number, layer in enumerate(layers.children()):

        def note(layer: object, inputs: object, output: object, number: int = number) -> None:
            ended.append(number)

        layer.register_forward_hook(note)
    tiny.run(IDS, capture=hooks)
    # Block 0 was finished, block 1 left before its end, block 2 never entered.
    assert ended == [0]


@pytest.mark.parametrize("side", ["resid_pre", "resid_mid", "attn_out", "mlp_out", "resid_post"])
def test_a_hook_at_the_edge_of_a_module_is_that_of_the_bridge(tiny: CausalModel, side: str) -> None:
    hook = f"blocks.1.hook_{side}"
    (found,) = tiny.run(IDS, capture=[hook]).activations.values()
    expected = bridge_activations(tiny, hook)
    assert hook in tiny._model.boundaries  # pyright: ignore[reportPrivateUsage]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("hook", ["blocks.1.ln1.hook_scale", "blocks.1.ln2.hook_normalized"])
def test_a_hook_inside_a_module_comes_from_the_bridge(tiny: CausalModel, hook: str) -> None:
    found = tiny.run(IDS, capture=[hook, MLP]).activations
    assert list(found) == [hook, MLP]
    torch.testing.assert_close(found[hook], bridge_activations(tiny, hook), atol=0, rtol=0)
    torch.testing.assert_close(
        found[MLP], tiny.run(IDS, capture=[MLP]).activations[MLP], atol=1e-5, rtol=1e-5
    )


def test_weights_are_held_once(tiny: CausalModel) -> None:
    whole, bridge = tiny._model.model, tiny._bridge.original_model  # pyright: ignore[reportPrivateUsage]
    # The bridge adds a bias of zeros to the output matrix.
    assert {w.data_ptr() for w in whole.parameters()} <= {w.data_ptr() for w in bridge.parameters()}


def bridge_activations(model: CausalModel, hook: str) -> Tensor:
    seen: list[Tensor] = []
    bridge = model._bridge  # pyright: ignore[reportPrivateUsage]
    rows = torch.cat([torch.full((len(IDS), 1), model.prefix[0]), IDS], dim=1)
    with torch.no_grad():
        bridge.run_with_hooks(rows, fwd_hooks=[(hook, lambda acts, hook: seen.append(acts[:, 1:].clone()))])  # pyright: ignore[reportUnknownLambdaType]
    return seen[0]


def test_hooks_are_gone_afterwards(tiny: CausalModel) -> None:
    before = n_hooks(tiny)
    tiny.run(IDS, capture=[MLP, RESID])
    assert n_hooks(tiny) == before

    def fail(activations: Tensor, positions: Tensor) -> Tensor:
        raise RuntimeError("from inside a hook")

    for hook in (MLP, "blocks.1.ln1.hook_scale"):
        with pytest.raises(RuntimeError, match="from inside a hook"):
            tiny.run(IDS, logits=True, interventions=[Intervention(hook, fail)])
    assert n_hooks(tiny) == before


def test_a_hook_is_captured_as_it_was_then(tiny: CausalModel) -> None:
    first = tiny.run(IDS, capture=[MLP]).activations[MLP]
    again = tiny.run(IDS, capture=[MLP, "blocks.2.hook_resid_post"]).activations[MLP]
    torch.testing.assert_close(first, again, atol=0, rtol=0)


def test_text_goes_to_tokens_and_back(tiny: CausalModel) -> None:
    ids = tiny.tokenize("ab c")
    assert len(ids) == 4
    assert tiny.token_strings(ids) == ("a", "b", " ", "c")
    # One token a byte: each is a part of a character, and is shown as such.
    assert tiny.token_strings(tiny.tokenize("é")) == ("\\xc3", "\\xa9")
    assert tiny.token_strings([0]) == ("<s>",)


def test_damaged_weights_are_one_line(tiny_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    folder.mkdir()
    for file in tiny_dir.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SubjectError, match="cannot load model") as caught:
        load_subject(ModelConfig(str(folder)))
    assert "\n" not in str(caught.value)


@pytest.mark.shared
def test_a_sentencepiece_model_reads_and_is_less_surprised_by_a_story(shared_dir: Path) -> None:
    model = load_subject(ModelConfig(str(shared_dir / "models" / "stories260k")))
    story = "Once upon a time, there was a little girl named Lily."
    ids = model.tokenize(story)
    assert "".join(model.token_strings(ids)).strip() == story
    shuffled = torch.tensor([ids])[:, torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))]
    assert mean_loss(model, [ids]) + 1 < mean_loss(model, shuffled.tolist())


@pytest.mark.model
def test_smollm2_knows_the_capital_of_italy(smollm2_dir: Path) -> None:
    model = load_subject(ModelConfig("smollm2"))
    assert (model.info.d_model, model.info.n_layers) == (576, 30)
    prompt = model.tokenize("The capital of Italy is")
    losses = {city: mean_loss(model, [prompt + model.tokenize(city)]) for city in (" Rome", " Paris", " the")}
    assert min(losses, key=lambda city: losses[city]) == " Rome"
    assert "".join(model.token_strings(model.tokenize("Höhe 12 m, “so”"))).startswith("Höhe 12 m, ")

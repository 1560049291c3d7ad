from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from safesail.errors import ConfigError, SubjectError
from safesail.subject.model import SubjectModel
from tests.tiny_model import D_MODEL, N_CTX, N_LAYERS

MLP, RESID = "blocks.1.hook_mlp_out", "blocks.1.hook_resid_post"
IDS = torch.tensor([[10, 20, 30, 40, 50], [60, 70, 80, 90, 100]])


def n_hooks(model: SubjectModel) -> int:
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


def test_what_is_known_of_the_model(tiny: SubjectModel, tiny_dir: Path) -> None:
    assert (tiny.info.d_model, tiny.info.n_layers) == (D_MODEL, N_LAYERS)
    assert tiny.info.model_id == str(tiny_dir)
    assert len(tiny.info.fingerprint) == 64
    assert tiny.bos_id == 0
    assert tiny.n_ctx_max == N_CTX - 1


def test_activations_equal_those_of_transformers(tiny: SubjectModel, tiny_dir: Path) -> None:
    captured = tiny.capture(IDS, [RESID, MLP])
    expected = plain(tiny_dir, IDS)
    assert list(captured) == [RESID, MLP]
    for hook, activations in captured.items():
        assert activations.shape == (2, 5, D_MODEL)
        torch.testing.assert_close(activations, expected[hook][:, 1:], atol=1e-5, rtol=1e-5)


def test_padding_on_the_right_changes_nothing_and_gives_zeros(tiny: SubjectModel) -> None:
    padded = torch.tensor([[10, 20, 30, 0, 0], [60, 70, 80, 90, 100]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    both = tiny.capture(padded, [MLP], mask)[MLP]
    alone = tiny.capture(torch.tensor([[10, 20, 30]]), [MLP])[MLP]
    torch.testing.assert_close(both[0, :3], alone[0], atol=1e-6, rtol=1e-5)
    assert (both[0, 3:] == 0).all()
    assert (both[1] != 0).any(dim=1).all()


def test_the_run_ends_at_the_deepest_hook(tiny_dir: Path) -> None:
    tiny = SubjectModel.load(str(tiny_dir))
    hooks = ["blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"]
    tiny.capture(IDS, hooks)  # the first time they are compared with the bridge's
    ended: list[int] = []
    layers = tiny._plain._model.get_submodule("model.layers")  # pyright: ignore[reportPrivateUsage]
    for number, layer in enumerate(layers.children()):

        def note(layer: object, inputs: object, output: object, number: int = number) -> None:
            ended.append(number)

        layer.register_forward_hook(note)
    tiny.capture(IDS, hooks)
    # Block 0 was finished, block 1 left before its end, block 2 never entered.
    assert ended == [0]


@pytest.mark.parametrize("side", ["resid_pre", "resid_mid", "attn_out", "mlp_out", "resid_post"])
def test_a_hook_at_the_edge_of_a_module_is_that_of_the_bridge(tiny: SubjectModel, side: str) -> None:
    hook = f"blocks.1.hook_{side}"
    (found,) = tiny.capture(IDS, [hook]).values()
    expected = bridge_activations(tiny, hook)
    assert hook in tiny._plain.edges  # pyright: ignore[reportPrivateUsage]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("hook", ["blocks.1.ln1.hook_scale", "blocks.1.ln2.hook_normalized"])
def test_a_hook_inside_a_module_comes_from_the_bridge(tiny: SubjectModel, hook: str) -> None:
    found = tiny.capture(IDS, [hook, MLP])
    assert list(found) == [hook, MLP]
    torch.testing.assert_close(found[hook], bridge_activations(tiny, hook), atol=0, rtol=0)
    torch.testing.assert_close(found[MLP], tiny.capture(IDS, [MLP])[MLP], atol=1e-5, rtol=1e-5)


def test_weights_are_held_once(tiny: SubjectModel) -> None:
    whole, bridge = tiny._plain._model, tiny._bridge.original_model  # pyright: ignore[reportPrivateUsage]
    # The bridge adds a bias of zeros to the output matrix.
    assert {w.data_ptr() for w in whole.parameters()} <= {w.data_ptr() for w in bridge.parameters()}


def bridge_activations(model: SubjectModel, hook: str) -> Tensor:
    seen: list[Tensor] = []
    bridge = model._bridge  # pyright: ignore[reportPrivateUsage]
    rows = torch.cat([torch.full((len(IDS), 1), model.bos_id), IDS], dim=1)
    with torch.no_grad():
        bridge.run_with_hooks(rows, fwd_hooks=[(hook, lambda acts, hook: seen.append(acts[:, 1:].clone()))])  # pyright: ignore[reportUnknownLambdaType]
    return seen[0]


def test_hooks_are_gone_afterwards(tiny: SubjectModel) -> None:
    before = n_hooks(tiny)
    tiny.capture(IDS, [MLP, RESID])
    assert n_hooks(tiny) == before

    def fail(activations: Tensor) -> Tensor:
        raise RuntimeError("from inside a hook")

    with pytest.raises(RuntimeError, match="from inside a hook"):
        tiny.logits_loss(IDS, replace=(MLP, fail))
    assert n_hooks(tiny) == before


def test_a_hook_is_captured_as_it_was_then(tiny: SubjectModel) -> None:
    first = tiny.capture(IDS, [MLP])[MLP]
    again = tiny.capture(IDS, [MLP, "blocks.2.hook_resid_post"])[MLP]
    torch.testing.assert_close(first, again, atol=0, rtol=0)


def test_loss_is_the_mean_over_tokens_after_the_bos(tiny: SubjectModel, tiny_dir: Path) -> None:
    logits = plain(tiny_dir, IDS)["logits"]
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), IDS.flatten()).item()
    assert tiny.logits_loss(IDS) == pytest.approx(expected, rel=1e-5)


def test_loss_leaves_padding_out(tiny: SubjectModel) -> None:
    padded = torch.tensor([[10, 20, 30, 7, 7]])
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    assert tiny.logits_loss(padded, mask) == pytest.approx(tiny.logits_loss(padded[:, :3]), rel=1e-5)


def test_replacing_activations_by_themselves_changes_nothing_and_by_zeros_much(tiny: SubjectModel) -> None:
    clean = tiny.logits_loss(IDS)
    assert tiny.logits_loss(IDS, replace=(MLP, torch.clone)) == pytest.approx(clean, rel=1e-6)
    shapes: list[tuple[int, ...]] = []

    def zero(activations: Tensor) -> Tensor:
        shapes.append(tuple(activations.shape))
        return torch.zeros_like(activations)

    assert abs(tiny.logits_loss(IDS, replace=(MLP, zero)) - clean) > 0.01
    assert shapes == [(2, 5, D_MODEL)]


def test_text_goes_to_tokens_and_back(tiny: SubjectModel) -> None:
    ids = tiny.tokenize("ab c")
    assert len(ids) == 4
    assert tiny.token_strings(ids) == ("a", "b", " ", "c")
    # One token a byte: each is a part of a character, and is shown as such.
    assert tiny.token_strings(tiny.tokenize("é")) == ("\\xc3", "\\xa9")
    assert tiny.token_strings([0]) == ("<s>",)


def test_an_unknown_hook_names_near_ones(tiny: SubjectModel) -> None:
    with pytest.raises(
        ConfigError, match=r"no hook 'blocks.1.hook_mlp_ou'; near names: .*blocks.1.hook_mlp_out"
    ):
        tiny.capture(IDS, ["blocks.1.hook_mlp_ou"])


def test_a_layer_too_deep_is_an_unknown_hook(tiny: SubjectModel) -> None:
    with pytest.raises(ConfigError, match=r"no hook 'blocks\.9\.hook_mlp_out'"):
        tiny.logits_loss(IDS, replace=("blocks.9.hook_mlp_out", torch.zeros_like))


def test_padding_on_the_left_is_refused(tiny: SubjectModel) -> None:
    with pytest.raises(ValueError, match="padding must be on the right"):
        tiny.capture(IDS, [MLP], torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]))


def test_a_row_too_long_is_refused(tiny: SubjectModel) -> None:
    with pytest.raises(ValueError, match=f"rows of {N_CTX} tokens"):
        tiny.capture(torch.ones(1, N_CTX, dtype=torch.long), [MLP])


def test_a_model_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFESAIL_CACHE", str(tmp_path))
    with pytest.raises(SubjectError, match="run `safesail fetch smollm2` first"):
        SubjectModel.load("smollm2")


def test_damaged_weights_are_one_line(tiny_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    folder.mkdir()
    for file in tiny_dir.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SubjectError, match="cannot load model") as caught:
        SubjectModel.load(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.shared
def test_a_sentencepiece_model_reads_and_is_less_surprised_by_a_story(shared_dir: Path) -> None:
    model = SubjectModel.load(str(shared_dir / "models" / "stories260k"))
    story = "Once upon a time, there was a little girl named Lily."
    ids = model.tokenize(story)
    assert "".join(model.token_strings(ids)).strip() == story
    shuffled = torch.tensor([ids])[:, torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))]
    assert model.logits_loss(torch.tensor([ids])) + 1 < model.logits_loss(shuffled)


@pytest.mark.model
def test_smollm2_knows_the_capital_of_italy(smollm2_dir: Path) -> None:
    model = SubjectModel.load("smollm2")
    assert (model.info.d_model, model.info.n_layers) == (576, 30)
    prompt = model.tokenize("The capital of Italy is")
    losses = {
        city: model.logits_loss(torch.tensor([prompt + model.tokenize(city)]))
        for city in (" Rome", " Paris", " the")
    }
    assert min(losses, key=lambda city: losses[city]) == " Rome"
    assert "".join(model.token_strings(model.tokenize("Höhe 12 m, “so”"))).startswith("Höhe 12 m, ")

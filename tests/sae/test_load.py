import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE as SaeLensSae
from safetensors.torch import save_file
from torch import Tensor

from safesail.domain.records import SubjectInfo
from safesail.errors import SaeError
from safesail.resources import resource_dir
from safesail.sae.checkpoint import open_checkpoint
from safesail.sae.checkpoint_config import CheckpointSource
from safesail.sae.folders import check_here
from safesail.sae.load import open_sae
from safesail.sae.protocol import SAE, SparseActs
from safesail.sae.save import save_sae
from safesail.sae.settings import find_saes
from safesail.subject.sizes import ModelSizes

D_IN, D_SAE, K = 6, 20, 3

Write = Callable[..., Path]


def encode_by_hand(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """z = ReLU(TopK(W_enc (x - b_dec) + b_enc)), one token at a time."""
    rows: list[Tensor] = []
    for row in x:
        pre = (row - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
        z = torch.zeros(D_SAE)
        for feature in sorted(range(D_SAE), key=lambda j: -float(pre[j]))[:K]:
            z[feature] = max(float(pre[feature]), 0.0)
        rows.append(z)
    return torch.stack(rows)


def test_what_is_known_of_a_folder(write_sae: Write, model: SubjectInfo) -> None:
    sae = open_sae(str(write_sae("tiny-l1-mlp-k3")), model=model)
    assert isinstance(sae, SAE)
    assert sae.info.sae_id == sae.info.source == "tiny-l1-mlp-k3"
    assert (sae.info.d_in, sae.info.d_sae, sae.info.k) == (D_IN, D_SAE, K)
    assert (sae.info.architecture, sae.info.hook, sae.info.model_id) == (
        "topk",
        "blocks.1.hook_mlp_out",
        "tiny",
    )
    assert sae.decoder is not None
    assert sae.decoder.shape == (D_SAE, D_IN)
    assert not sae.decoder.requires_grad


def test_encode_and_decode_equal_the_formulas(write_sae: Write, weights: dict[str, Tensor]) -> None:
    sae = open_sae(str(write_sae("a")), model=None)
    x = torch.randn(9, D_IN, generator=torch.Generator().manual_seed(1))
    z = encode_by_hand(weights, x)
    acts = sae.encode(x)
    torch.testing.assert_close(acts.dense(0, 9), z)
    torch.testing.assert_close(sae.decode(acts), z @ weights["W_dec"] + weights["b_dec"])


@pytest.mark.parametrize(
    "changes", [{}, {"rescale_acts_by_decoder_norm": True}, {"normalize_activations": "layer_norm"}]
)
def test_few_active_features_decode_as_many_do(
    write_sae: Write, weights: dict[str, Tensor], changes: dict[str, Any]
) -> None:
    sae = open_sae(str(write_sae("a", k=1, W_dec=3 * weights["W_dec"], **changes)), model=None)
    x = torch.randn(300, D_IN, generator=torch.Generator().manual_seed(1))
    x[7] = x[299] = weights["b_dec"]  # here hardly anything fires
    acts = sae.encode(x)
    if "normalize_activations" in changes:
        with pytest.raises(SaeError, match="cannot decode"):
            sae.decode(acts)
        return
    scale = 3 * weights["W_dec"].norm(dim=1) if changes else torch.ones(D_SAE)
    by_hand = (acts.dense(0, 300) / scale) @ (3 * weights["W_dec"]) + weights["b_dec"]
    torch.testing.assert_close(sae.decode(acts), by_hand)
    nothing = SparseActs.above_zero(torch.zeros(4, D_SAE))
    torch.testing.assert_close(sae.decode(nothing), weights["b_dec"].expand(4, -1))


def test_many_tokens_are_encoded_as_few_are(write_sae: Write) -> None:
    sae = open_sae(str(write_sae("a")), model=None)
    x = torch.randn(1_100, D_IN, generator=torch.Generator().manual_seed(1))
    acts = sae.encode(x)
    assert acts.n_tokens == 1_100
    assert (acts.token.diff() >= 0).all()
    one = sae.encode(x[700:701])
    torch.testing.assert_close(acts.dense(700, 1), one.dense(0, 1))
    assert sae.decode(acts).shape == x.shape
    assert sae.decode(sae.encode(x[:0])).shape == (0, D_IN)


def test_sae_lens_reads_what_was_saved(write_sae: Write, weights: dict[str, Tensor]) -> None:
    inner = SaeLensSae.load_from_disk(write_sae("a"))
    x = torch.randn(5, D_IN, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(inner.encode(x).detach(), encode_by_hand(weights, x))


def test_half_precision_halves_the_file_and_changes_little(
    tmp_path: Path, weights: dict[str, Tensor], settings: dict[str, Any]
) -> None:
    save_sae(tmp_path / "half", weights, settings, half=True, readme="# card\n")
    inner = SaeLensSae.load_from_disk(tmp_path / "half")
    assert inner.W_enc.dtype == torch.float32
    torch.testing.assert_close(inner.W_enc.detach(), weights["W_enc"], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(inner.b_dec.detach(), weights["b_dec"], atol=0, rtol=0)
    assert (tmp_path / "half" / "README.md").read_text(encoding="utf-8") == "# card\n"


def test_the_digest_is_of_the_weights_not_the_folder(write_sae: Write, weights: dict[str, Tensor]) -> None:
    first = open_sae(str(write_sae("a")), model=None).info.sha256
    assert open_sae(str(write_sae("b")), model=None).info.sha256 == first
    changed = weights["b_enc"].clone()
    changed[0] += 1e-6
    assert open_sae(str(write_sae("c", b_enc=changed)), model=None).info.sha256 != first


def test_saving_never_writes_over_anything(
    tmp_path: Path, weights: dict[str, Tensor], settings: dict[str, Any]
) -> None:
    save_sae(tmp_path / "a", weights, settings)
    with pytest.raises(SaeError, match="exists already"):
        save_sae(tmp_path / "a", weights, settings)
    save_sae(tmp_path / "a", weights | {"b_enc": torch.ones(D_SAE)}, settings, replace=True)
    assert open_sae(str(tmp_path / "a"), model=None).encode(torch.zeros(1, D_IN)).value.numel() == K
    (tmp_path / "mine").mkdir()
    with pytest.raises(SaeError, match="exists already"):
        save_sae(tmp_path / "mine", weights, settings, replace=True)
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(SaeError, match="cannot write"):
        save_sae(tmp_path / "file" / "a", weights, settings)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_another_width_is_refused(write_sae: Write) -> None:
    with pytest.raises(SaeError, match="reads 6 numbers per token, big has 64; use --model tiny"):
        open_sae(str(write_sae("a")), model=SubjectInfo("big", "f", 64, 2))


def test_a_layer_or_hook_that_the_model_does_not_have_is_refused(write_sae: Write) -> None:
    with pytest.raises(
        SaeError, match=r"sits at blocks.1.hook_mlp_out, which small with 1 layers does not have"
    ):
        open_sae(str(write_sae("a")), model=SubjectInfo("small", "f", D_IN, 1))
    folder = write_sae("b", metadata={"hook_name": "somewhere", "sae_lens_version": "6.54.12"})
    with pytest.raises(SaeError, match="sits at somewhere"):
        open_sae(str(folder), model=SubjectInfo("small", "f", D_IN, 1))
    folder = write_sae("c", metadata={"sae_lens_version": "6.54.12"})
    with pytest.raises(SaeError, match="names no hook point"):
        open_sae(str(folder), model=None)


def test_what_is_no_sae_of_one_place_is_refused(write_sae: Write) -> None:
    with pytest.raises(SaeError, match="is a transcoder, which writes to another place than it reads"):
        open_sae(
            str(write_sae("t", architecture="transcoder", d_out=D_IN, apply_b_dec_to_input=False)), model=None
        )
    metadata = {"hook_name": "blocks.1.attn.hook_z", "sae_lens_version": "6.54.12"}
    with pytest.raises(SaeError, match="reads attention heads one by one"):
        open_sae(str(write_sae("z", reshape_activations="hook_z", metadata=metadata)), model=None)


def test_normalisation_a_token_can_encode_but_not_decode(write_sae: Write) -> None:
    scaled = open_sae(str(write_sae("b", normalize_activations="layer_norm")), model=None)
    acts = scaled.encode(torch.randn(2, D_IN))
    with pytest.raises(SaeError, match="normalises token by token"):
        scaled.decode(acts)


@pytest.mark.parametrize("name", ["W_enc", "b_dec"])
def test_nan_is_refused_when_saved_and_when_read(
    write_sae: Write, weights: dict[str, Tensor], name: str
) -> None:
    broken = weights[name].clone()
    broken.view(-1)[0] = torch.nan
    with pytest.raises(SaeError, match=f"a: {name} holds NaN"):
        write_sae("a", **{name: broken})
    folder = write_sae("b")
    save_file(weights | {name: broken}, folder / "sae_weights.safetensors")
    with pytest.raises(SaeError, match=f"{name} holds NaN or infinite values"):
        open_sae(str(folder), model=None)


def test_damaged_folders_are_one_line(write_sae: Write, weights: dict[str, Tensor]) -> None:
    missing = write_sae("missing")
    (missing / "cfg.json").unlink()
    truncated = write_sae("truncated")
    whole = (truncated / "sae_weights.safetensors").read_bytes()
    (truncated / "sae_weights.safetensors").write_bytes(whole[:-40])
    no_json = write_sae("no_json")
    (no_json / "cfg.json").write_text("{", encoding="utf-8")
    a_list = write_sae("a_list")
    (a_list / "cfg.json").write_text("[]", encoding="utf-8")
    other = write_sae("other")
    save_file(weights | {"W_enc": torch.zeros(D_IN, 4)}, other / "sae_weights.safetensors")
    part = write_sae("part")
    save_file({"W_enc": weights["W_enc"]}, part / "sae_weights.safetensors")
    unknown = write_sae("unknown", architecture="cubist")
    for folder in (missing, truncated, no_json, a_list, other, part, unknown):
        with pytest.raises(SaeError) as caught:
            open_sae(str(folder), model=None)
        assert folder.name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_nothing_there() -> None:
    with pytest.raises(SaeError, match=r"no SAE at \./absent"):
        open_sae("./absent", model=None)
    with pytest.raises(SaeError, match="Release nobody_has_this not found"):
        open_sae("nobody_has_this/id", model=None)


def test_saes_are_found_by_folder_pattern_and_name(write_sae: Write, tmp_path: Path) -> None:
    for name in ("m-k8", "m-k4", "other"):
        write_sae(name)
    (tmp_path / "notes").mkdir()
    (tmp_path / "paper.pt").write_bytes(b"")
    here = str(tmp_path)
    assert find_saes([f"{here}/m-*"]) == [f"{here}/m-k4", f"{here}/m-k8"]
    assert find_saes([here]) == [f"{here}/m-k4", f"{here}/m-k8", f"{here}/other", f"{here}/paper.pt"]
    assert find_saes([f"{here}/other", f"{here}/*"])[0] == f"{here}/other"
    assert len(find_saes([f"{here}/*"])) == 4
    assert find_saes(["llama_scope_lxm_8x/l0m_8x"]) == ["llama_scope_lxm_8x/l0m_8x"]
    assert find_saes([f"{here}/absent", "./absent/x", "nothing*"]) == []


def test_a_published_sae_is_read_from_the_hubs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: dict[str, Tensor], settings: dict[str, Any]
) -> None:
    repo = tmp_path / "hub" / "models--jbloom--GPT2-Small-SAEs-Reformatted"
    folder = repo / "snapshots" / ("0" * 40) / "blocks.1.hook_resid_pre"
    folder.parent.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40, encoding="utf-8")
    metadata = settings["metadata"] | {"hook_name": "blocks.1.hook_resid_pre"}
    save_sae(folder, weights, settings | {"metadata": metadata})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    spec = "gpt2-small-res-jb/blocks.1.hook_resid_pre"
    sae = open_sae(spec, model=SubjectInfo("gpt2", "f", D_IN, 12))
    assert sae.info.sae_id == sae.info.source == spec
    assert sae.info.hook == "blocks.1.hook_resid_pre"
    assert isinstance(sae.encode(torch.zeros(1, D_IN)), SparseActs)


def test_a_published_sae_without_a_network_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(SaeError, match="cannot load SAE llama_scope_lxm_8x/l0m_8x") as caught:
        open_sae("llama_scope_lxm_8x/l0m_8x", model=None)
    assert "\n" not in str(caught.value)


def test_a_configuration_may_stand_alone(write_sae: Write) -> None:
    config = json.loads((write_sae("a") / "cfg.json").read_text(encoding="utf-8"))
    assert config["architecture"] == "topk"
    assert config["normalize_activations"] == "none"
    assert config["apply_b_dec_to_input"] is True


def test_the_saes_that_come_along_load_and_are_what_their_cards_say() -> None:
    found = find_saes([str(resource_dir("data") / "saes")])
    saes = [open_sae(spec, model=SubjectInfo("smollm2", "f", 576, 30)) for spec in found]
    assert len({sae.info.sha256 for sae in saes}) == len(saes) == 9
    x = torch.randn(20, 576, generator=torch.Generator().manual_seed(0)) * 2
    for sae in saes:
        assert sae.info.sae_id.endswith(f"-k{sae.info.k}")
        assert sae.encode(x).value.numel() <= 20 * (sae.info.k or 0)
        assert sae.decoder is not None
        torch.testing.assert_close(sae.decoder.norm(dim=1), torch.ones(1536), atol=1e-3, rtol=0)
        card = (resource_dir("data") / "saes" / sae.info.sae_id / "README.md").read_text(encoding="utf-8")
        assert f"`{sae.info.hook}`" in card
        assert "/tmp" not in card


SIZES = ModelSizes("tiny", D_IN, 2)
SOURCE: dict[str, Any] = {"hook": "blocks.1.hook_mlp_out", "k": K, "fetch": "fetch it from the hub"}


def test_a_checkpoint_with_its_settings_needs_no_file_beside_it(tmp_path: Path, model: SubjectInfo) -> None:
    path = tmp_path / "ckpt_layer1.pt"
    torch.save(
        {
            "pre_encoder_bias._bias_reference": torch.zeros(1, D_IN),
            "encoder.weight": torch.randn(1, D_IN, D_SAE, generator=torch.Generator().manual_seed(0)),
            "encoder.bias": torch.zeros(1, D_SAE),
        },
        path,
    )
    source = CheckpointSource(path=str(path), d_in=D_IN, d_sae=D_SAE, **SOURCE)
    assert check_here([source], SIZES) == []
    sae = open_checkpoint(path, model=model, config=source.settings)
    assert (sae.info.sae_id, sae.info.hook, sae.info.k) == ("ckpt_layer1", "blocks.1.hook_mlp_out", K)
    assert sae.encode(torch.ones(2, D_IN)).d_sae == D_SAE


def test_a_checkpoint_that_is_not_here_says_how_to_get_it(tmp_path: Path) -> None:
    source = CheckpointSource(path=str(tmp_path / "a.pt"), d_in=D_IN, d_sae=D_SAE, **SOURCE)
    with pytest.raises(SaeError, match=r"no checkpoint at .*a\.pt; fetch it from the hub"):
        check_here([source], SIZES)

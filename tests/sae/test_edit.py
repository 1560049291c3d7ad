"""Edits of features reach the subject model, and keep what the SAE does not explain."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from safesail.errors import SaeError
from safesail.sae.checkpoint import open_checkpoint
from safesail.sae.checkpoint_config import CheckpointConfig
from safesail.sae.edit import Change, ablate, add, clamp, edit_features, reconstruct, scale
from safesail.sae.load import open_sae
from safesail.sae.protocol import SAE
from safesail.subject.loading import ModelConfig, load_subject
from safesail.subject.minilm import is_installed
from safesail.subject.protocol import Subject
from tests.tiny_model import write_tiny_model

Write = Callable[..., Path]
X = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(3))
POSITIONS = torch.tensor([[0, 1, 2, 3, -1, -1, -1], [0, 1, 2, 3, 4, 5, 6]])


@pytest.fixture
def sae(write_sae: Write) -> SAE:
    return open_sae(str(write_sae("a")), model=None)


def edited(sae: SAE, changes: dict[int, Change], **options: Any) -> Tensor:
    return edit_features(sae, changes, **options).edit(X.clone(), POSITIONS)


@pytest.mark.parametrize(
    ("change", "factor", "offset"),
    [(ablate, 0, 0), (scale(2.5), 2.5, 0), (add(0.75), 1, 0.75), (clamp(3.0), 0, 3)],
)
def test_an_edit_moves_each_token_along_the_decoder_and_keeps_the_rest(
    sae: SAE, change: Change, factor: float, offset: float
) -> None:
    tokens = X[POSITIONS >= 0]
    f = sae.encode(tokens).dense(0, len(tokens))
    feature = int((f > 0).sum(dim=0).argmax())
    moved = f.clone()
    moved[:, feature] = factor * f[:, feature] + offset
    assert sae.decoder is not None
    expected = tokens + (moved - f) @ sae.decoder
    out = edited(sae, {feature: change})
    torch.testing.assert_close(out[POSITIONS >= 0], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(out[POSITIONS < 0], X[POSITIONS < 0])
    untouched = (moved == f).all(dim=1)
    assert torch.equal(out[POSITIONS >= 0][untouched], tokens[untouched])


def test_several_features_and_chosen_positions(sae: SAE) -> None:
    changes: dict[int, Change] = {4: clamp(1.0), 9: ablate, 11: add(-2.0)}

    def third(positions: Tensor) -> Tensor:
        return positions == 2

    out = edited(sae, changes, at=third)
    assert torch.equal(out[:, [0, 1, 3, 4, 5, 6]], X[:, [0, 1, 3, 4, 5, 6]])
    tokens = X[:, 2]
    f = sae.encode(tokens).dense(0, 2)
    moved = f.clone()
    moved[:, 4], moved[:, 9], moved[:, 11] = 1, 0, f[:, 11] - 2
    assert sae.decoder is not None
    torch.testing.assert_close(out[:, 2], tokens + (moved - f) @ sae.decoder, atol=1e-5, rtol=1e-5)


def test_a_feature_that_stays_as_it_is_changes_nothing_to_the_last_bit(sae: SAE) -> None:
    assert torch.equal(edited(sae, dict.fromkeys(range(20), scale(1.0))), X)


def test_reconstruction_stands_in_for_the_activations(sae: SAE) -> None:
    out = reconstruct(sae).edit(X.clone(), POSITIONS)
    expected = sae.decode(sae.encode(X[POSITIONS >= 0]))
    assert torch.equal(out[POSITIONS >= 0], expected)
    assert torch.equal(out[POSITIONS < 0], X[POSITIONS < 0])


def test_what_cannot_be_edited_is_refused(sae: SAE, write_sae: Write, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a has 20 features, no #20"):
        edit_features(sae, {20: ablate})
    normalised = open_sae(str(write_sae("ln", normalize_activations="layer_norm")), model=None)
    with pytest.raises(SaeError, match="normalises token by token"):
        edit_features(normalised, {0: ablate})
    weights = {
        "pre_encoder_bias._bias_reference": torch.zeros(1, 6), "encoder.weight": torch.zeros(1, 6, 20),
        "encoder.bias": torch.zeros(1, 20),
    }  # fmt: skip
    torch.save(weights, tmp_path / "encoder.pt")
    config = CheckpointConfig(hook="blocks.1.hook_mlp_out", architecture="relu")
    with pytest.raises(SaeError, match="has an encoder only"):
        edit_features(open_checkpoint(tmp_path / "encoder.pt", model=None, config=config), {0: ablate})


@pytest.fixture(params=["causal", "minilm"])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Subject:
    if request.param == "causal":
        return load_subject(ModelConfig(str(write_tiny_model(tmp_path / "tiny")), device="cpu"))
    if not is_installed():
        pytest.skip("needs the extra `embedding`")
    return load_subject(ModelConfig("minilm", device="cpu"))


def test_unchanged_features_change_a_model_by_exactly_nothing_and_ablated_ones_change_it(
    subject: Subject, write_sae: Write
) -> None:
    d_in, generator = subject.info.d_model, torch.Generator().manual_seed(0)
    w_dec = torch.nn.functional.normalize(torch.randn(20, d_in, generator=generator), dim=1)
    sae = open_sae(
        str(write_sae("s", d_in=d_in, W_enc=w_dec.T.contiguous(), W_dec=w_dec, b_dec=torch.zeros(d_in))),
        model=None,
    )
    rows, last = torch.tensor([[8, 5, 10, 11, 6]]), f"blocks.{subject.info.n_layers - 1}.hook_resid_post"

    def run(*edits: Any) -> Tensor:
        return subject.run(rows, capture=[last], interventions=edits).activations[last]

    clean = run()
    assert (run(edit_features(sae, dict.fromkeys(range(20), scale(1.0)))) - clean).abs().max() == 0
    assert (run(edit_features(sae, dict.fromkeys(range(20), ablate))) - clean).abs().max() > 1e-3

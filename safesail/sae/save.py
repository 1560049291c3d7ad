"""Writing an SAE in SAELens' format."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from safesail.errors import DataError, SaeError
from safesail.files import whole_folder
from safesail.sae.settings import CONFIG, WEIGHTS
from safesail.sae.weights import check_weights


def save_sae(
    directory: Path,
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    *,
    half: bool = False,
    readme: str | None = None,
    replace: bool = False,
) -> None:
    """Write cfg.json, sae_weights.safetensors and README.md, so that the folder appears whole or not at all.

    Args:
        directory: The SAE's folder; its name is the SAE's id.
        weights: W_enc [d_in, d_sae], b_enc [d_sae], W_dec [d_sae, d_in], b_dec [d_in].
        config: SAELens' settings of the architecture.
        half: Keep the two matrices in float16: half the size, and about 0.0005 of relative error.
        readme: The model card.
        replace: Put it in the place of an SAE that is there.

    Raises:
        SaeError: something is there already, a weight is not finite, or the folder cannot be written.
    """
    check_weights(weights, directory.name)
    if directory.exists() and not (replace and (directory / CONFIG).is_file()):
        raise SaeError(f"{directory} exists already; choose another folder, or delete it")
    stored = {
        name: tensor.detach()
        .to("cpu", torch.float16 if half and tensor.ndim == 2 else torch.float32)
        .contiguous()
        for name, tensor in weights.items()
    }
    # The old one goes only once the new one is whole.
    old = directory.with_name(f".{directory.name}.old") if directory.exists() else None
    try:
        with whole_folder(directory) as partial:
            save_file(stored, partial / WEIGHTS)
            (partial / CONFIG).write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")
            if readme is not None:
                (partial / "README.md").write_text(readme, encoding="utf-8")
            if old is not None:
                directory.rename(old)
    except DataError as error:
        raise SaeError(str(error)) from error
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def topk_config(d_in: int, d_sae: int, k: int, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """SAELens' settings of a TopK SAE that reads and writes raw activations.

    Args:
        d_in: Width of the activations.
        d_sae: Features.
        k: Active features per token.
        metadata: `hook_name`, `model_name`, `sae_lens_version` and whatever else is known.
    """
    return {
        "architecture": "topk",
        "k": k,
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "rescale_acts_by_decoder_norm": False,
        "metadata": dict(metadata),
    }

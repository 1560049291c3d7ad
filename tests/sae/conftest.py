"""A small TopK SAE with random weights, and SAELens' settings for it."""

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from safesail.domain.records import SubjectInfo
from safesail.sae.save import save_sae, topk_config

D_IN, D_SAE, K = 6, 20, 3
HOOK = "blocks.1.hook_mlp_out"


@pytest.fixture
def model() -> SubjectInfo:
    return SubjectInfo("tiny", "f" * 64, D_IN, 2)


@pytest.fixture
def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    w_dec = torch.nn.functional.normalize(torch.randn(D_SAE, D_IN, generator=generator), dim=1)
    return {
        "W_enc": w_dec.T.contiguous() + 0.1,
        "b_enc": torch.randn(D_SAE, generator=generator) * 0.1,
        "W_dec": w_dec,
        "b_dec": torch.randn(D_IN, generator=generator),
    }


@pytest.fixture
def settings() -> dict[str, Any]:
    version = importlib.metadata.version("sae_lens")
    return topk_config(D_IN, D_SAE, K, {"hook_name": HOOK, "model_name": "tiny", "sae_lens_version": version})


@pytest.fixture
def write_sae(tmp_path: Path, weights: dict[str, Tensor], settings: dict[str, Any]) -> Callable[..., Path]:
    """Writes the SAE, with any setting or weight changed, to a folder of the given name."""

    def write(name: str, **changes: Any) -> Path:
        tensors = weights | {key: value for key, value in changes.items() if key in weights}
        config = settings | {key: value for key, value in changes.items() if key not in weights}
        save_sae(tmp_path / name, tensors, config)
        return tmp_path / name

    return write

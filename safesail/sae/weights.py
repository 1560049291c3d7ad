"""Checks and digests of an SAE's weights."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from safesail.errors import SaeError


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and float32 values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def check_weights(weights: Mapping[str, Tensor], where: str) -> None:
    """Refuse weights that cannot be used.

    Raises:
        SaeError: a value is not finite.
    """
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise SaeError(f"{where}: {name} holds NaN or infinite values; fetch or train the SAE again")

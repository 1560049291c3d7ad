"""Safe-SAIL's own checkpoints (`.pt`): an encoder without its decoder.

Keys, each with a leading component axis: `pre_encoder_bias._bias_reference`, `encoder.weight`, `encoder.bias`, and
`encoder.theta` for JumpReLU (the paper's repository). What the file does not say (hook, k, architecture, component)
stands in a YAML file of the same name beside it.
"""

import pickle  # noqa: TID251  (only the name of an error that torch raises; nothing is unpickled)
import zipfile
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from safesail.domain.records import SaeInfo, SubjectInfo
from safesail.errors import SaeError
from safesail.sae.checkpoint_config import CheckpointConfig
from safesail.sae.protocol import SparseActs, rows_at_once
from safesail.sae.weights import check_weights, weights_sha256

_BIAS, _WEIGHT, _ENC_BIAS, _THETA = (
    "pre_encoder_bias._bias_reference",
    "encoder.weight",
    "encoder.bias",
    "encoder.theta",
)


class EncoderOnly:
    """z = f(W_enc (x - b_pre) + b_enc), f one of TopK then ReLU, ReLU, JumpReLU."""

    decoder = None

    def __init__(self, weights: dict[str, Tensor], config: CheckpointConfig, info: SaeInfo) -> None:
        self._weights = weights
        self._config = config
        self.info = info

    def encode(self, x: Float[Tensor, "n_tokens d_in"], slots: int | None = None) -> SparseActs:
        """Feature activations greater than zero; see `SAE.encode`."""
        device = self._weights[_BIAS].device
        rows = x.to(device, torch.float32).split(rows_at_once(device, self.info.d_sae))
        return SparseActs.join((self._encode(part, slots) for part in rows if len(part)), self.info.d_sae)

    def decode(self, acts: SparseActs) -> Float[Tensor, "n_tokens d_in"]:
        """Always an `SaeError`: the checkpoint has no decoder."""
        raise SaeError(f"{self.info.sae_id} has an encoder only; it cannot reconstruct activations")

    def _encode(self, x: Float[Tensor, "rows d_in"], slots: int | None) -> SparseActs:
        w = self._weights
        pre = torch.addmm(w[_ENC_BIAS], x - w[_BIAS], w[_WEIGHT])
        if self._config.architecture == "jumprelu":
            return SparseActs.above_zero(pre * (pre > w[_THETA]), slots)
        if self._config.k is not None and self._config.architecture == "topk":
            return SparseActs.largest(pre, self._config.k, slots)
        return SparseActs.above_zero(pre, slots)


def open_checkpoint(
    path: Path, *, model: SubjectInfo | None, device: str = "cpu", config: CheckpointConfig | None = None
) -> EncoderOnly:
    """Load a checkpoint.

    Args:
        path: The `.pt` file; without its ending it is the SAE's id.
        model: The subject model.
        device: torch device.
        config: What the file does not say; None reads the YAML file beside it.

    Raises:
        SaeError: the file is missing, damaged, or not such a checkpoint.
        ConfigError: the YAML file is missing or wrong.
    """
    if not path.is_file():
        raise SaeError(f"no checkpoint at {path}")
    settings = CheckpointConfig.from_yaml(path.with_suffix(".yaml")) if config is None else config
    weights = {name: tensor.to(device) for name, tensor in _component(_read(path), settings, path).items()}
    check_weights(weights, path.name)
    d_in, d_sae = weights[_WEIGHT].shape
    if settings.k is not None and settings.k > d_sae:
        raise SaeError(f"{path}: k = {settings.k} of {d_sae} features cannot be; correct k in the YAML file")
    info = SaeInfo(
        sae_id=path.stem,
        model_id="unknown" if model is None else model.model_id,
        hook=settings.hook,
        d_in=d_in,
        d_sae=d_sae,
        architecture=settings.architecture,
        sha256=weights_sha256(weights),
        source=path.name,
        k=settings.k,
    )
    return EncoderOnly(weights, settings, info)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
    ) as error:
        raise SaeError(f"{path} is damaged or no plain torch checkpoint ({type(error).__name__})") from error
    needed = {_BIAS, _WEIGHT, _ENC_BIAS}
    if not isinstance(content, dict) or not needed <= content.keys():
        raise SaeError(f"{path} is no Safe-SAIL checkpoint; it needs the keys {', '.join(sorted(needed))}")
    return content


def _component(content: dict[str, Tensor], config: CheckpointConfig, path: Path) -> dict[str, Tensor]:
    """The tensors of one component: weight as [d_in, d_sae], vectors flat."""
    names = [_BIAS, _WEIGHT, _ENC_BIAS] + ([_THETA] if config.architecture == "jumprelu" else [])
    if missing := [name for name in names if name not in content]:
        raise SaeError(f"{path} has no {missing[0]}, which a {config.architecture} checkpoint needs")
    n = content[_WEIGHT].shape[0]
    if content[_WEIGHT].ndim != 3 or config.component >= n:
        raise SaeError(
            f"{path}: component {config.component} is not there; {_WEIGHT} is {list(content[_WEIGHT].shape)}"
        )
    one = {name: content[name][config.component].float() for name in names}
    bias, enc_bias = one[_BIAS].flatten(), one[_ENC_BIAS].flatten()
    weight = one[_WEIGHT]
    if weight.shape == (len(enc_bias), len(bias)):
        weight = weight.T
    if weight.shape != (len(bias), len(enc_bias)):
        raise SaeError(
            f"{path}: {_WEIGHT} {list(weight.shape)} does not fit biases of {len(bias)} and {len(enc_bias)}"
        )
    flat = {name: tensor.flatten() for name, tensor in one.items() if name != _WEIGHT}
    return {**flat, _WEIGHT: weight.contiguous()}

"""Names of the things Safe-SAIL talks about."""

import hashlib
import re
from dataclasses import dataclass

from safesail.errors import ConfigError

_LAYER = re.compile(r"(?:^|\.)(?:blocks|layers|h)\.(\d+)(?:\.|$)")
_INDEX = re.compile(r"[0-9]{1,9}")  # the store's INTEGER holds it


@dataclass(frozen=True, order=True)
class FeatureId:
    """One feature (elsewhere also called a latent, or a neuron of the SAE): a row of one SAE's decoder."""

    sae_id: str
    """Key of the SAE in the store, e.g. `"smollm2-l14-mlp-k32"`."""

    index: int
    """Row of `W_dec`; 0 <= index < d_sae."""

    def __post_init__(self) -> None:
        if self.index < 0:
            raise ValueError(f"feature index must be >= 0, got {self.index}")

    def __str__(self) -> str:
        return f"{self.sae_id}#{self.index}"


def content_id(text: str) -> str:
    """Identity of a text: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def layer_of(hook: str) -> int | None:
    """The layer number in a hook name such as `blocks.14.hook_mlp_out`; None where it names no layer."""
    found = _LAYER.search(hook)
    return int(found.group(1)) if found else None


def parse_feature(text: str) -> FeatureId:
    """Read `SAE#INDEX`.

    Raises:
        ConfigError: it is not of that form.
    """
    sae_id, _, index = text.rpartition("#")
    if not sae_id or not _INDEX.fullmatch(index):
        raise ConfigError(f"{text!r} is not a feature; write SAE#INDEX, e.g. smollm2-l14-mlp-k16#42")
    return FeatureId(sae_id, int(index))

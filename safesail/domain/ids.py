"""Names of features, texts and layers."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
    match = _LAYER.search(hook)
    return int(match.group(1)) if match else None


def parse_feature(text: str) -> FeatureId:
    """Read `SAE#INDEX`.

    Raises:
        ConfigError: it is not of that form.
    """
    sae_id, _, index = text.rpartition("#")
    if not sae_id or not _INDEX.fullmatch(index):
        raise ConfigError(f"{text!r} is not a feature; write SAE#INDEX, e.g. smollm2-l14-mlp-k16#42")
    return FeatureId(sae_id, int(index))


def read_features(path: Path) -> Iterator[tuple[int, FeatureId]]:
    """Features of a file, one `SAE#INDEX` per line, with their line numbers; lines that begin with `#` are skipped.

    Raises:
        ConfigError: the file cannot be read, names nothing, or a line is something else.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as a list of features ({error})") from error
    named = [
        (n, line.strip()) for n, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")
    ]
    if not named:
        raise ConfigError(f"{path} names no feature; write SAE#INDEX, one per line")
    for number, text in named:
        yield number, parse_feature(text)

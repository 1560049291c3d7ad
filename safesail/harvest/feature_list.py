"""A list of features whose nonzeros are to be kept."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from safesail.domain.ids import parse_feature
from safesail.domain.records import SaeInfo
from safesail.errors import ConfigError


def read_feature_list(path: Path, saes: Iterable[SaeInfo]) -> dict[str, NDArray[np.bool_]]:
    """By sae_id, which features the file names; `HarvestJob.keep` with `features: listed`.

    The file has one `SAE#INDEX` a line; empty lines and lines that begin with `#` are skipped.

    Raises:
        ConfigError: the file cannot be read, or names what these SAEs do not have.
    """
    keep = {sae.sae_id: np.zeros(sae.d_sae, dtype=bool) for sae in saes}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as a list of features ({error})") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        feature = parse_feature(line.strip())
        mask = keep.get(feature.sae_id)
        if mask is None or feature.index >= len(mask):
            raise ConfigError(f"{path} line {number}: no feature {feature} in {', '.join(keep)}")
        mask[feature.index] = True
    if not any(mask.any() for mask in keep.values()):
        raise ConfigError(f"{path} names no feature; write SAE#INDEX, one a line")
    return keep

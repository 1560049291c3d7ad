"""A list of features whose nonzeros are to be kept."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from safesail.domain.ids import read_features
from safesail.domain.records import SaeInfo
from safesail.errors import ConfigError


def read_feature_list(path: Path, saes: Iterable[SaeInfo]) -> dict[str, NDArray[np.bool_]]:
    """By sae_id, which features the file names; `HarvestJob.keep` with `features: listed`.

    The file has one `SAE#INDEX` per line; empty lines and lines that begin with `#` are skipped.

    Raises:
        ConfigError: the file cannot be read, or names what these SAEs do not have.
    """
    keep = {sae.sae_id: np.zeros(sae.d_sae, dtype=bool) for sae in saes}
    for number, feature in read_features(path):
        mask = keep.get(feature.sae_id)
        if mask is None or feature.index >= len(mask):
            raise ConfigError(f"{path} line {number}: no feature {feature} in {', '.join(keep)}")
        mask[feature.index] = True
    return keep

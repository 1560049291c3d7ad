"""Whose nonzeros a harvest keeps."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from safesail.domain.ids import read_features
from safesail.domain.records import SaeInfo
from safesail.errors import ConfigError
from safesail.harvest.config import HarvestConfig
from safesail.store.connection import Db
from safesail.store.selection import candidate_features

Keep = dict[str, NDArray[np.bool_]]
"""By sae_id: which of the SAE's features, length d_sae."""


def features_to_keep(
    db: Db, saes: Sequence[SaeInfo], config: HarvestConfig, listed: Path | None = None
) -> Keep | None:
    """The features of which all nonzeros are kept: a selection's candidates or those of a file; None keeps all.

    Raises:
        ConfigError: the file cannot be read, or names what these SAEs do not have.
        NotFoundError: candidates are asked for, and one of the SAEs has no selection.
    """
    if config.features == "all":
        return None
    keep = {sae.sae_id: np.zeros(sae.d_sae, dtype=bool) for sae in saes}
    if config.features == "candidates":
        for sae_id, mask in keep.items():
            mask[[c.feature for c in candidate_features(db, sae_id)]] = True
    elif listed is None:
        raise ConfigError("features: listed needs a file of features")
    else:
        for number, feature in read_features(listed):
            mask = keep.get(feature.sae_id)
            if mask is None or feature.index >= len(mask):
                raise ConfigError(f"{listed} line {number}: no feature {feature} in {', '.join(keep)}")
            mask[feature.index] = True
    return keep

"""The directions of an SAE's features, and those that are held against them as nulls."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from safesail.sae.edit import feature_directions
from safesail.sae.protocol import SAE
from safesail.store.effects import FeatureSize

MAX_COSINE = 0.5
"""Features whose directions are closer to the feature's are no null: they may do the same."""


def null_features(sae: SAE, feature: int, sizes: Mapping[int, FeatureSize], n: int) -> list[int]:
    """Other features that fire about as often, nearest first, whose directions are not close to the feature's."""
    assert sae.decoder is not None
    close = _cosines(sae.decoder, feature)
    own = np.log(sizes[feature].density)
    others = [j for j in sizes if j != feature and abs(close[j]) < MAX_COSINE]
    return sorted(others, key=lambda j: (abs(np.log(sizes[j].density) - own), j))[:n]


def _cosines(decoder: Float[Tensor, "d_sae d_in"], feature: int) -> NDArray[np.float32]:
    rows = decoder.float()
    norms = rows.norm(dim=1).clamp(min=1e-12)
    return ((rows @ rows[feature]) / (norms * norms[feature])).cpu().numpy()


def with_nulls(
    sae: SAE, feature: int, nulls: list[int], *, n_random: int, seed: int
) -> Float[Tensor, "n_directions d_in"]:
    """The feature's direction, those of its null features, then random ones; all of the feature's norm."""
    of_features = feature_directions(sae, [feature, *nulls])
    generator = torch.Generator().manual_seed(seed * 1_000_003 + feature)
    drawn = torch.randn(n_random, of_features.shape[1], generator=generator).to(of_features)
    others = torch.nn.functional.normalize(torch.cat([of_features[1:], drawn]), dim=1)
    return torch.cat([of_features[:1], others * of_features[0].norm()])

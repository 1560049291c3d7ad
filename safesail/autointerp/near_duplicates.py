"""Features that are nearly the same: explained once."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from safesail.domain.config import Config
from safesail.store.connection import Db
from safesail.store.exemplars import coactivity
from safesail.store.selection import NEAR, near_features


class NearDuplicatesConfig(Config):
    """When two features count as nearly the same."""

    direction: Annotated[float, Field(ge=NEAR, le=1)] = 0.9
    """Cosine of their decoder directions, at least."""

    activity: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Cosine of their activations over the harvested tokens, at least."""


def near_duplicates(
    db: Db, sae_id: str, features: Sequence[int], config: NearDuplicatesConfig
) -> dict[int, int]:
    """Features that need no explanation of their own, each with the earlier one whose explanation it shares.

    A feature that shares is shared by none, so that nobody gets an explanation at third hand.

    Args:
        db: The open store.
        sae_id: SAE that has been selected and harvested.
        features: In the order in which they are explained.
        config: Thresholds.
    """
    place = {feature: number for number, feature in enumerate(features)}
    pairs = sorted(
        sorted((place[a], place[b]))
        for a, b in near_features(db, sae_id, config.direction)
        if a in place and b in place
    )
    shared: dict[int, int] = {}
    for first, second in pairs:
        earlier, later = features[first], features[second]
        if earlier in shared or later in shared:
            continue
        if coactivity(db, sae_id, earlier, later) >= config.activity:
            shared[later] = earlier
    return shared

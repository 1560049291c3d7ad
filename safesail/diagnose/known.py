"""What a catalog knows of the features of loaded SAEs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from safesail.catalog.api import open_catalog
from safesail.domain.records import SaeInfo
from safesail.errors import FingerprintError

COLUMNS = (
    "explanation", "score", "chance_score", "above_chance", "beyond_lookup", "tags", "density", "mean",
    "maximum", "q999",
)  # fmt: skip
"""Of every feature, missing where unknown. `mean`, `maximum`, `q999` (quantile .999): of its activations above zero.
`above_chance`: the lower end of the score's interval is above the chance score; missing where one is not there."""

_SQL = """
    SELECT c.sae_id, c."index", c.explanation, c.score, c.chance_score,
           c.score_low > c.chance_score AS above_chance, c.beyond_lookup, c.tags, c.density, f.mean, f.maximum, f.q999
    FROM catalog c JOIN features f ON f.sae_id = c.sae_id AND f.feature = c."index"
"""


@dataclass(frozen=True)
class KnownFeatures:
    """By SAE, as the model's side calls it, a frame with a row per feature that the catalog has, by its index."""

    by_sae: dict[str, pd.DataFrame]

    def of(self, sae_id: str) -> pd.DataFrame:
        """Columns of `COLUMNS`; empty where the catalog does not have the SAE."""
        return self.by_sae.get(sae_id, _EMPTY)


def read_known(catalog: Path | None, saes: Sequence[SaeInfo]) -> KnownFeatures:
    """What a store or a release knows of these SAEs: those of its SAEs with the same weights, whatever their name.

    Args:
        catalog: None: nothing is known.
        saes: The SAEs.

    Raises:
        NotFoundError: nothing there.
        DataError: it is damaged.
        FingerprintError: the catalog's SAE of that name has other weights.
    """
    if catalog is None:
        return KnownFeatures({})
    with open_catalog(catalog) as opened:
        stored = opened.query("SELECT sae_id, sha256 FROM saes")
        known = opened.query(_SQL)
    weights = {str(sae_id): sha256 for sae_id, sha256 in zip(stored.sae_id, stored.sha256, strict=True)}
    frames = {
        str(name): frame.set_index("index").loc[:, list(COLUMNS)] for name, frame in known.groupby("sae_id")
    }
    names = {sae.sae_id: _name(sae, weights, catalog) for sae in saes}
    return KnownFeatures(
        {sae_id: frames[name] for sae_id, name in names.items() if name is not None and name in frames}
    )


def _name(sae: SaeInfo, weights: dict[str, str | None], catalog: Path) -> str | None:
    if sae.sae_id in weights:
        if weights[sae.sae_id] not in (None, sae.sha256):
            raise FingerprintError(f"{catalog} knows another SAE by the name {sae.sae_id}")
        return sae.sae_id
    return next((name for name, sha256 in weights.items() if sha256 == sae.sha256), None)


_EMPTY = pd.DataFrame({name: pd.Series(dtype=object) for name in COLUMNS})

"""Candidates whose decoder directions are close, kept for later stages, which have no weights."""

import torch

from safesail.sae.protocol import SAE
from safesail.store.connection import Db
from safesail.store.selection import NEAR, candidate_features, write_near


def record_near(db: Db, sae: SAE) -> None:
    """Keep which candidates of an SAE that has been selected have decoder directions close to each other."""
    if sae.decoder is None:
        return
    sae_id = sae.info.sae_id
    features = sorted(c.feature for c in candidate_features(db, sae_id))
    rows = torch.nn.functional.normalize(sae.decoder[features].float(), dim=1)
    cosine = torch.triu(rows @ rows.T, diagonal=1)
    a, b = torch.nonzero(cosine >= NEAR, as_tuple=True)
    found = zip(a.tolist(), b.tolist(), cosine[a, b].tolist(), strict=True)
    write_near(db, sae_id, [(features[i], features[j], c) for i, j, c in found])

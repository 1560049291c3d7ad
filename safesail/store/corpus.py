"""How a value compares with all that a harvest stored of its feature."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Float32, Int

from safesail.store.sql import Db, rows


def harvested_as(db: Db, sha256s: Sequence[str]) -> dict[str, str]:
    """By weights (SHA-256): the name under which the store holds a harvest's activations; others are left out."""
    tables = {str(r[0]) for r in rows(db, "SELECT table_name FROM duckdb_tables() WHERE NOT internal")}
    if "activations_f32" not in tables:  # a release
        return {}
    harvested = rows(
        db,
        "SELECT sha256, sae_id FROM saes JOIN harvest_saes USING (sae_key) JOIN harvests USING (harvest_key)"
        " WHERE finished AND list_contains(?, sha256)",
        [list(sha256s)],
    )
    return {str(sha256): str(sae_id) for sha256, sae_id in harvested}


def share_higher(
    db: Db, sae_id: str, feature: Int[np.ndarray, " n"], value: Float32[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Of each value, the share of the harvest's tokens on which its feature is stronger.

    One pass over the stored activations of these features; NaN where the store does not hold them all.

    Args:
        db: An open store.
        sae_id: An SAE that was harvested.
        feature: Of each value.
        value: Greater than zero.
    """
    asked, back = np.unique(
        np.stack([feature.astype(np.float64), value.astype(np.float64)]), axis=1, return_inverse=True
    )
    features, values = asked[0].astype(np.int32), asked[1].astype(np.float32)
    table = pa.table({"n": np.arange(len(features)), "feature": features, "value": values})
    db.register("_asked", table)
    try:
        between = rows(db, _BETWEEN, {"sae_id": sae_id})
        kept = rows(db, _KEPT, {"sae_id": sae_id})
    finally:
        db.unregister("_asked")
    counts = np.zeros(len(features))
    for n, count in between:
        counts[n] = count
    # Stronger than a value: what is between it and the next one of its feature, and all above that.
    below = np.append(0, np.cumsum(counts))
    above = below[np.searchsorted(features, features, side="right")] - below[:-1]
    n_tokens = {int(f): float(n) for f, n, whole in kept if whole}
    shares = above / np.array([n_tokens.get(int(f), np.nan) for f in features])
    return shares[back.reshape(-1)]


_ACTIVATIONS = """
    SELECT feature, value FROM activations
    WHERE sae_key = (SELECT sae_key FROM saes WHERE sae_id = $sae_id)
      AND feature IN (SELECT DISTINCT feature FROM _asked)
"""

_BETWEEN = f"""
    SELECT q.n, count(*) FROM ({_ACTIVATIONS}) a
    ASOF JOIN _asked q ON a.feature = q.feature AND a.value > q.value GROUP BY q.n
"""

_KEPT = f"""
    SELECT f.feature, f.n_tokens, count(a.feature) = f.n_active
    FROM features f LEFT JOIN ({_ACTIVATIONS}) a USING (feature)
    WHERE f.sae_id = $sae_id AND f.feature IN (SELECT DISTINCT feature FROM _asked)
    GROUP BY f.feature, f.n_tokens, f.n_active
"""

"""Writing single tags."""

from safesail.domain.ids import FeatureId
from safesail.errors import NotFoundError
from safesail.store.catalog import REJECTED as REJECTED
from safesail.store.sql import Db, one


def write_tag(db: Db, feature: FeatureId, tag: str, source: str, severity: int | None) -> None:
    """Set a tag of one source, with its severity.

    Raises:
        NotFoundError: the store does not have the feature.
    """
    key = [feature.sae_id, feature.index]
    if one(db, "SELECT 1 FROM features WHERE sae_id = ? AND feature = ?", key) is None:
        raise NotFoundError(f"the catalog has no feature {feature}")
    db.execute("INSERT OR REPLACE INTO tags VALUES (?, ?, ?, ?, ?)", [*key, tag, source, severity])


def delete_tag(db: Db, feature: FeatureId, tag: str, source: str) -> bool:
    """Remove a tag of one source; was it there?"""
    found = db.execute(
        "DELETE FROM tags WHERE sae_id = ? AND feature = ? AND tag = ? AND source = ? RETURNING 1",
        [feature.sae_id, feature.index, tag, source],
    ).fetchall()
    return bool(found)

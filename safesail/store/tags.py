"""Writing single tags."""

from safesail.domain.ids import FeatureId
from safesail.errors import NotFoundError
from safesail.store.sql import Db, one, rows, transaction

REJECTED = 0
"""Severity of a tag that a person said the feature does NOT have; it hides the same tag from other sources."""


def write_tag(db: Db, feature: FeatureId, tag: str, source: str, severity: int | None) -> None:
    """Set a tag of one source, with its severity.

    Raises:
        NotFoundError: the store does not have the feature.
    """
    key = [feature.sae_id, feature.index]
    if one(db, "SELECT 1 FROM features WHERE sae_id = ? AND feature = ?", key) is None:
        raise NotFoundError(f"the catalog has no feature {feature}")
    with transaction(db):
        db.execute("INSERT OR REPLACE INTO tags VALUES (?, ?, ?, ?, ?)", [*key, tag, source, severity])


def delete_tag(db: Db, feature: FeatureId, tag: str, source: str) -> bool:
    """Remove a tag of one source; was it there?"""
    with transaction(db):
        sql = "DELETE FROM tags WHERE sae_id = ? AND feature = ? AND tag = ? AND source = ? RETURNING 1"
        return bool(rows(db, sql, [feature.sae_id, feature.index, tag, source]))

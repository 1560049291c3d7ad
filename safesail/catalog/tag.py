"""Correcting tags by hand. A person's word stands above all others, and no later run overwrites it."""

from pathlib import Path

from safesail.concepts.taxonomy import taxonomy
from safesail.domain.ids import FeatureId
from safesail.errors import ConfigError
from safesail.store.connection import open_writer
from safesail.store.tags import REJECTED, delete_tag, write_tag

MAX_SEVERITY = 3
"""Severity runs from 1 (mild) to 3 (severe)."""


def set_tag(store: Path, feature: FeatureId, tag: str, *, severity: int | None = None) -> None:
    """Say that a feature has a tag.

    Raises:
        ConfigError: the taxonomy does not have the tag, or the severity is not 1 to 3.
        NotFoundError: the catalog does not have the feature.
    """
    if severity is not None and not 1 <= severity <= MAX_SEVERITY:
        raise ConfigError(
            f"severity runs from 1 to {MAX_SEVERITY}, not {severity}; `--remove` says the tag is wrong"
        )
    _write(store, feature, tag, severity)


def reject_tag(store: Path, feature: FeatureId, tag: str) -> None:
    """Say that a feature does not have a tag, whoever gave it, now or later.

    Raises:
        ConfigError: the taxonomy does not have the tag.
        NotFoundError: the catalog does not have the feature.
    """
    _write(store, feature, tag, REJECTED)


def clear_tag(store: Path, feature: FeatureId, tag: str) -> bool:
    """Take back what a person said about a tag; was there anything?"""
    with open_writer(store) as db:
        return delete_tag(db, feature, tag, "person")


def _write(store: Path, feature: FeatureId, tag: str, severity: int | None) -> None:
    taxonomy().check_tag(tag)
    with open_writer(store) as db:
        write_tag(db, feature, tag, "person", severity)

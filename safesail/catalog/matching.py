"""Which public catalogs describe the SAE in hand: by the directory, its weights, or only by what it says of itself."""

from pathlib import Path
from typing import Any

from safesail.catalog.sources import Match, sources_for
from safesail.errors import NotFoundError
from safesail.resources import expand
from safesail.sae.settings import WEIGHTS, read_settings
from safesail.sae.stored import stored_sha256
from safesail.store.connection import open_reader
from safesail.store.identities import stored_saes


def describe(sae: str, store: Path | None = None) -> list[Match]:
    """Sources that describe an SAE, those first for which that is proven.

    Args:
        sae: `release/id` of SAELens' directory, a Neuronpedia id, or an SAE's folder.
        store: Where an SAE with the same weights may be known as `release/id`; None: nowhere.

    Raises:
        NotFoundError: `sae` is a path, and nothing is there.
        SaeError: the folder is incomplete or damaged.
    """
    folder = Path(expand(sae))
    if not folder.is_dir():
        if sae.startswith((".", "/", "~")):
            raise NotFoundError(f"no SAE at {sae}")
        return sources_for(sae)
    settings = read_settings(folder) or {}
    metadata = settings.get("metadata")
    return sources_for(
        folder.name, stated=_stated(metadata if isinstance(metadata, dict) else settings), twins=_twins(folder, store)
    )  # fmt: skip


def _stated(metadata: dict[str, Any]) -> list[str]:
    named = metadata.get("neuronpedia_id")
    return [named] if isinstance(named, str) and named else []


def _twins(folder: Path, store: Path | None) -> list[str]:
    """Names under which the store knows SAEs with these very weights, as SAELens loaded them."""
    if store is None or not store.is_file():
        return []
    sha256 = stored_sha256(folder / WEIGHTS)
    with open_reader(store) as db:
        return [s.sae_id for s in stored_saes(db) if s.sha256 == sha256 and s.source == s.sae_id]

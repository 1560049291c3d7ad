"""SAEs that go along with a release: the very weights that it explains, with a licence, and of a size that is said."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml

from safesail.catalog.archive import FREE_BYTES
from safesail.catalog.format import CARD, SaeEntry, WeightsEntry
from safesail.errors import ConfigError, DataError
from safesail.resources import expand
from safesail.sae.settings import CONFIG, WEIGHTS, find_saes, read_settings
from safesail.sae.stored import stored_sha256

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def take_saes(
    specs: Sequence[str], listed: Sequence[SaeEntry], folder: Path, *, licence: str | None
) -> tuple[WeightsEntry, ...]:
    """Copy SAEs into the release at `folder`.

    Args:
        specs: Folders, patterns, or folders of folders; those whose weights the release is not about are passed over.
        listed: SAEs that the release is about.
        folder: The release's.
        licence: Of SAEs whose card states none.

    Raises:
        ConfigError: nothing is there, none of it is what the release is about, or an SAE without a licence.
        DataError: it does not fit on the disk.
        SaeError: an SAE's folder is damaged.
    """
    if not specs:
        return ()
    folders = [Path(path) for path in find_saes([expand(spec) for spec in specs])]
    folders = [path for path in folders if path.is_dir() and read_settings(path) is not None]
    by_weights = {sae.sha256: sae for sae in listed if sae.sha256 is not None}
    matched = [(path, by_weights.get(stored_sha256(path / WEIGHTS))) for path in folders]
    chosen = {sae.sae_id: (path, sae) for path, sae in matched if sae is not None}
    if not chosen:
        about = ", ".join(sae.sae_id for sae in listed) or "none"
        raise ConfigError(f"no SAE in {', '.join(specs)} has the weights that the catalog is about ({about})")
    _check_room([path for path, _ in chosen.values()], folder)
    return tuple(_take(path, sae, folder, licence) for path, sae in chosen.values())


def _check_room(paths: Sequence[Path], folder: Path) -> None:
    needed = sum((path / name).stat().st_size for path in paths for name in (CONFIG, WEIGHTS))
    if needed + FREE_BYTES > shutil.disk_usage(folder).free:
        raise DataError(
            f"{needed:,} bytes of SAEs do not fit on the disk of {folder.parent}; free some space"
        )


def _take(path: Path, sae: SaeEntry, folder: Path, licence: str | None) -> WeightsEntry:
    stated = _stated_licence(path / CARD) or licence
    if stated is None:
        raise ConfigError(
            f"the card of {path} states no licence; name it with --sae-licence, if you may pass the SAE on"
        )
    name = _UNSAFE.sub("_", sae.sae_id).strip("._") or "sae"
    entry = WeightsEntry(sae_id=sae.sae_id, folder=f"saes/{name}", licence=stated)
    (folder / entry.folder).mkdir(parents=True)
    for file in (CONFIG, WEIGHTS):
        shutil.copyfile(path / file, folder / entry.folder / file)
    return entry


def _stated_licence(card: Path) -> str | None:
    """`license` of a card's front matter."""
    if not card.is_file():
        return None
    parts = card.read_text(encoding="utf-8", errors="replace").split("---\n", 2)
    try:
        front = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    stated = front.get("license") if isinstance(front, dict) else None
    return str(stated) if stated else None

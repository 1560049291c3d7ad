"""Where Safe-SAIL's own files lie, in a checkout and in an installed wheel, and where the user's cache is."""

import os
from pathlib import Path

import platformdirs

from safesail.errors import NotFoundError

_PACKAGE = Path(__file__).resolve().parent


def resource_dir(name: str) -> Path:
    """Folder `name` (`data`, `prompts` or `pipelines`): from the wheel's bundle, else the checkout's root.

    Raises:
        NotFoundError: the installation is incomplete.
    """
    for candidate in (_PACKAGE / "_bundled" / name, _PACKAGE.parent / name):
        if candidate.is_dir():
            return candidate
    raise NotFoundError(f"Safe-SAIL's own folder {name!r} is missing; install the package again")


def cache_dir() -> Path:
    """Where fetched models are kept: `SAFESAIL_CACHE`, else the platform's cache folder. Not created here."""
    chosen = os.environ.get("SAFESAIL_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("safesail", appauthor=False))


BUNDLED = "bundled:"


def expand(source: str) -> str:
    """A path as given, or, for `bundled:data/texts`, the path of Safe-SAIL's own file or folder.

    Raises:
        NotFoundError: no such folder among Safe-SAIL's own.
    """
    if not source.startswith(BUNDLED):
        return source
    folder, _, rest = source.removeprefix(BUNDLED).partition("/")
    return str(resource_dir(folder) / rest)

"""Safe-SAIL: interpret the features of sparse autoencoders for safety work.

Importing it loads nothing heavy; each name below is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from safesail.version import __version__

if TYPE_CHECKING:
    from safesail.api import (
        LoadedModel,
        diagnose,
        download,
        explain,
        load,
        measure_effects,
        open_catalog,
        release,
        run,
        score,
    )

__all__ = [
    "LoadedModel",
    "__version__",
    "diagnose",
    "download",
    "explain",
    "load",
    "measure_effects",
    "open_catalog",
    "release",
    "run",
    "score",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'safesail' has no attribute {name!r}")
    return getattr(import_module("safesail.api"), name)


def __dir__() -> list[str]:
    return __all__

"""What works on this machine."""

import os
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from safesail.errors import SafeSailError
from safesail.resources import cache_dir, resource_dir


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    what: str
    ok: bool
    found: str
    """What there is, or what to do about it."""


PACKAGES = ("torch", "transformer-lens", "sae-lens", "transformers", "duckdb", "openai", "datasets")
ENOUGH_DISK = 2 * 10**9


def examine(store: Path) -> list[Check]:
    """Look at packages, device, bundled files, the default model, endpoint, disk and store."""
    return [
        *(_package(name) for name in PACKAGES),
        _device(),
        _bundle(),
        _model(),
        _endpoint(),
        _disk(),
        _store(store),
    ]


def _package(name: str) -> Check:
    try:
        return Check(name, True, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Check(name, False, f"not installed; pip install {name}")


def _device() -> Check:
    import torch

    from safesail.subject.device import choose_device

    return Check("device", True, f"{choose_device('auto')}, {torch.get_num_threads()} CPU threads")


def _bundle() -> Check:
    try:
        return Check(
            "own files", True, ", ".join(resource_dir(n).name for n in ("data", "prompts", "pipelines"))
        )
    except SafeSailError as error:
        return Check("own files", False, str(error))


def _model() -> Check:
    from safesail.subject.fetch import local_dir

    here = local_dir("smollm2", cache_dir())
    return Check("smollm2", here is not None, "here" if here else "run `safesail fetch smollm2`")


def _endpoint() -> Check:
    base = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1")
    key = (
        "a key is set"
        if os.environ.get("OPENAI_API_KEY")
        else "no OPENAI_API_KEY: only the built-in model answers"
    )
    return Check("endpoint", True, f"{base} ({key})")


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    return Check("disk", free > ENOUGH_DISK, f"{free / 1e9:.1f} GB free in the working folder")


def _store(path: Path) -> Check:
    from safesail.store.connection import open_reader

    if not path.exists():
        return Check("store", True, f"no {path} yet")
    try:
        with open_reader(path):
            return Check("store", True, f"{path}, {path.stat().st_size / 1e6:.1f} MB")
    except SafeSailError as error:
        return Check("store", False, str(error))

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
    """What was looked at, and what there is."""

    what: str
    ok: bool
    detail: str
    """What there is, or what to do about it."""


PACKAGES = ("torch", "transformer-lens", "sae-lens", "transformers", "duckdb", "openai", "datasets")
ENOUGH_DISK = 2 * 10**9
REACH_SECONDS = 3.0


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

    from safesail.subject.loading import choose_device

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
    from safesail.llm.address import check_address

    base, key = os.environ.get("OPENAI_BASE_URL"), os.environ.get("OPENAI_API_KEY")
    if not base and not key:
        return Check(
            "endpoint", True, "no OPENAI_API_KEY, no OPENAI_BASE_URL: only the built-in models answer"
        )
    base = base or "https://api.openai.com/v1"
    try:
        check_address(base)
    except SafeSailError as error:
        return Check("endpoint", False, f"OPENAI_BASE_URL: {error}")
    reached, answer = _reach(base)
    return Check("endpoint", reached, f"{base} ({'a key is set' if key else 'no OPENAI_API_KEY'}), {answer}")


def _reach(base: str) -> tuple[bool, str]:
    """Whether anything answers there. No key is sent, and no redirect followed."""
    import httpx  # the openai package's own; it knows of proxies

    try:
        answer = httpx.get(f"{base.rstrip('/')}/models", timeout=REACH_SECONDS, follow_redirects=False)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return False, f"not reached: {' '.join(str(error).split()) or type(error).__name__}"
    return True, f"reached (HTTP {answer.status_code})"


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

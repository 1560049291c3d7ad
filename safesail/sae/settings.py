"""What an SAE's folder is called and says of itself: read without weights, torch or a subject model."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safesail.domain.config import load_yaml
from safesail.errors import SaeError

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"

_RELEASE = re.compile(r"[\w.-]+/[\w.,+/-]+")


def find_saes(specs: Sequence[str]) -> list[str]:
    """Specs with patterns and folders of folders expanded, each once, in order of name within a spec.

    A spec is an SAE's folder, a folder of such folders, a pattern of either, a `.pt` checkpoint, or
    `release/id` of SAELens' directory. What matches nothing here is left out.
    """
    specs_here: list[str] = []
    for spec in specs:
        base = Path(spec)
        paths = sorted(base.parent.glob(base.name)) if base.name else [base]
        if not paths and may_be_release(spec):
            specs_here.append(spec)
        for path in paths:
            if (path / CONFIG).is_file() or path.suffix == ".pt":
                specs_here.append(str(path))
            elif path.is_dir():
                specs_here += sorted(str(inner.parent) for inner in path.glob(f"*/{CONFIG}"))
                specs_here += sorted(str(inner) for inner in path.glob("*.pt"))
    return list(dict.fromkeys(specs_here))


def may_be_release(spec: str) -> bool:
    """Whether `spec` can be `release/id` of SAELens' directory."""
    return _RELEASE.fullmatch(spec) is not None and not spec.startswith(".")


def read_settings(path: Path) -> dict[str, Any] | None:
    """An SAE's cfg.json, or the hook that a checkpoint's YAML file names; None for what is not on this machine.

    Raises:
        SaeError: a folder that is incomplete, or whose cfg.json is damaged.
        ConfigError: the YAML file is missing or damaged.
    """
    if path.suffix == ".pt":
        return {"metadata": {"hook_name": load_yaml(path.with_suffix(".yaml")).get("hook")}}
    if not path.is_dir():
        return None
    for name in (CONFIG, WEIGHTS):
        if not (path / name).is_file():
            raise SaeError(f"{path} is not an SAE folder: {name} is missing")
    try:
        settings = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SaeError(
            f"cannot load SAE {path}: {CONFIG} is no JSON ({' '.join(str(error).split())[:100]})"
        ) from error
    if not isinstance(settings, dict):
        raise SaeError(f"{path / CONFIG} must be a JSON object")
    _check_numbers(path, settings)
    return settings


def _check_numbers(path: Path, settings: dict[str, Any]) -> None:
    for name in ("d_in", "d_sae", "k"):
        number = settings.get(name)
        if number is not None and (isinstance(number, bool) or not isinstance(number, int | float)):
            raise SaeError(f"{path}: {name} = {number!r:.40} is no number; correct it in its {CONFIG}")
    k, d_sae = settings.get("k"), settings.get("d_sae")
    if k is not None and d_sae is not None and not 1 <= k <= d_sae:
        raise SaeError(f"{path}: k = {k} of {d_sae} features cannot be; correct k in its {CONFIG}")

"""SAELens' directory of published SAEs, read from its file: importing SAELens takes seconds, this does not."""

import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from safesail.errors import SaeError
from safesail.subject.aliases import ModelAlias, load_aliases, unknown_model

_FILE = "pretrained_saes.yaml"

_BLOCK = re.compile(r"^blocks\.(\d+)\.(hook_\w+?)(?:_(\d+))?(?:__.*)?$")
_LLAMA_SCOPE = re.compile(r"^l(\d+)([rma])_(?:(\d+)x|.*)")
_LAYER = re.compile(r"(?:^|[/_])layer_?(\d+)(?=$|[/_])")
_WIDTH = re.compile(r"(?:^|[/_-])(?:width_|w)(\d+)(k|m)(?=$|[/_-])")
_POWER = re.compile(r"width-2pow(\d+)")
_V5 = re.compile(r"-v5-(\d+)k$")

_LLAMA_SITES = {"r": "hook_resid_post", "m": "hook_mlp_out", "a": "hook_attn_out"}
_RELEASE_SITES = (
    (re.compile(r"-pt-res\b|-it-res\b|qwen-scope|andyrdt|goodfire"), "hook_resid_post"),
    (re.compile(r"-pt-mlp\b|-it-mlp\b"), "hook_mlp_out"),
)
"""Releases whose ids name a layer only, by what they say of themselves. Attention SAEs of Gemma Scope read hook_z."""

_LLAMA_D_MODEL = 4096
_ROUNDING = 0.05
"""Most that a width's name is off, relative to the width."""


@dataclass(frozen=True)
class Candidate:
    """One published SAE, as the directory describes it."""

    release: str
    sae_id: str
    layer: int | None
    """None where the id does not say."""

    width: int | None
    """d_sae, None where neither release nor id says."""

    hook: str | None
    """Hook point in TransformerLens' names; None where it cannot be told."""

    expected_l0: float | None
    """As its makers measured it; None where they do not say."""


def releases_for(alias: str) -> list[Candidate]:
    """Every SAE that SAELens' directory lists for a subject model, in the directory's order.

    Raises:
        SubjectError: no such alias.
        SaeError: SAELens, or its directory, is not where it should be.
    """
    aliases = load_aliases()
    if alias not in aliases:
        raise unknown_model(alias)
    directory = read_directory()
    return [
        candidate(release, entry)
        for release in aliases[alias].releases
        for entry in directory.get(release, {}).get("saes", [])
        # A release may hold a stray entry that is a whole release of its own.
        if "saes" not in entry
    ]


@cache
def read_directory() -> dict[str, dict[str, Any]]:
    """SAELens' directory by release: model, repo_id and saes, as in its file.

    Raises:
        SaeError: SAELens, or its directory, is not where it should be.
    """
    spec = find_spec("sae_lens")
    path = Path(spec.origin).parent / _FILE if spec is not None and spec.origin is not None else None
    if path is None or not path.is_file():
        raise SaeError(f"SAELens' directory {_FILE} is missing; install sae-lens again")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(path.read_text(encoding="utf-8"), loader)


def candidate(release: str, entry: dict[str, Any]) -> Candidate:
    """One entry of the directory, its layer, width and hook read out of release and id."""
    sae_id = str(entry["id"])
    layer, hook, width = _from_id(release, sae_id)
    l0 = entry.get("l0")
    return Candidate(release, sae_id, layer, width, hook, float(l0) if isinstance(l0, int | float) else None)


def find_candidate(spec: str) -> Candidate:
    """The published SAE `release/id`.

    Raises:
        SaeError: the directory has no such release, or the release no such SAE.
    """
    release, _, sae_id = spec.partition("/")
    directory = read_directory()
    if release not in directory:
        raise SaeError(
            f"no SAE at {spec}: not a folder with cfg.json, a .pt file or release/id of SAELens"
            + _near(release, directory)
        )
    entries = {str(entry["id"]): entry for entry in directory[release]["saes"] if "saes" not in entry}
    if sae_id not in entries:
        raise SaeError(
            f"release {release} of SAELens has no SAE {sae_id!r} among its {len(entries)}{_near(sae_id, entries)}"
        )
    return candidate(release, entries[sae_id])


def made_for(release: str) -> ModelAlias | None:
    """The subject model whose SAEs a release holds, where it has a short name."""
    return next((alias for alias in load_aliases().values() if release in alias.releases), None)


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _from_id(release: str, sae_id: str) -> tuple[int | None, str | None, int | None]:
    """(layer, hook, width)."""
    if match := _BLOCK.match(sae_id):
        width = int(match.group(3)) if match.group(3) else _width(release)
        return int(match.group(1)), f"blocks.{match.group(1)}.{match.group(2)}", width
    if release.startswith("llama_scope") and (match := _LLAMA_SCOPE.match(sae_id)):
        width = int(match.group(3)) * _LLAMA_D_MODEL if match.group(3) else None
        return int(match.group(1)), f"blocks.{match.group(1)}.{_LLAMA_SITES[match.group(2)]}", width
    width = _width(sae_id) or _width(release)
    match = _LAYER.search(sae_id)
    if match is None:
        return None, None, width
    site = next((site for pattern, site in _RELEASE_SITES if pattern.search(release)), None)
    return int(match.group(1)), site and f"blocks.{match.group(1)}.{site}", width


def _width(text: str) -> int | None:
    if match := _POWER.search(text):
        return 2 ** int(match.group(1))
    if match := _V5.search(text):
        return _features(int(match.group(1)), 1000)
    if match := _WIDTH.search(text):
        return _features(int(match.group(1)), 1000 if match.group(2) == "k" else 1000**2)
    return None


def _features(number: int, unit: int) -> int:
    """`16k` is 16,384 and `262k` is 262,144, the power of two that they round; `80k` rounds none and is 81,920."""
    power = 2 ** round(math.log2(number * unit))
    if abs(power / (number * unit) - 1) < _ROUNDING:
        return power
    return number * (1024 if unit == 1000 else 1024**2)

"""What a selection would load, from where, how large and how long. Opens no network and no model."""

import fnmatch
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safesail.domain.ids import layer_of
from safesail.errors import ConfigError
from safesail.resources import expand
from safesail.sae.directory import Candidate, releases_for
from safesail.sae.folders import CONFIG, find_saes
from safesail.subject.aliases import ModelAlias, resolve, unknown_model

N_TOKENS = 60_000
"""About what the concept pairs that come along have, in a subject model's tokens."""

FLOPS = 70e9
"""Multiplications and additions a second of one CPU core in float32, as measured for an SAE's encoder."""


@dataclass(frozen=True)
class PlanRow:
    """One thing that would be loaded."""

    name: str
    """An SAE's folder, checkpoint or `release/id`; the first row is the subject model."""

    kind: str
    """`model`, `here` (on this machine) or `hub` (to be downloaded)."""

    layer: int | None
    width: int | None
    """d_sae."""

    hook: str | None
    l0: float | None
    """As its makers or its configuration say; measured only when it is scored."""

    megabytes: float | None
    """On disk; for a download, what float32 weights of that size take."""

    seconds: float | None
    """A rough guess for one CPU core; the model's pass is made once for all SAEs."""

    def cells(self) -> dict[str, Any]:
        """The row by column name."""
        return dict(self.__dict__)


def plan(model: str, patterns: Sequence[str] = (), *, n_tokens: int = N_TOKENS) -> list[PlanRow]:
    """The subject model's row, then one a candidate SAE; unknown figures are None.

    Args:
        model: An alias, hub id or folder.
        patterns: Folders (patterns allowed), checkpoints, or patterns of `release/id`; empty takes all that
            come along for the model and all that SAELens' directory lists for it.
        n_tokens: Tokens of the concept pairs.

    Raises:
        SubjectError: the name is no alias, and no folder.
        ConfigError: nothing matches.
    """
    alias = resolve(model)
    if alias is None and not Path(model).is_dir():
        raise unknown_model(model)
    d_model = None if alias is None else alias.d_model
    listed = [] if alias is None else [_listed(c, d_model, n_tokens) for c in releases_for(alias.name)]
    if patterns:
        found = [row for pattern in patterns for row in _matching(pattern, listed, n_tokens)]
    else:
        found = [*_own(alias, n_tokens), *listed]
    if not found:
        raise ConfigError(
            f"no SAE matches {', '.join(patterns) or 'the model ' + model}; list folders or releases"
        )
    rows = list(dict.fromkeys(found))
    return [_model_row(model, alias, rows, n_tokens), *rows]


def _own(alias: ModelAlias | None, n_tokens: int) -> list[PlanRow]:
    if alias is None or not alias.local_saes:
        return []
    return [
        _folder(Path(spec), n_tokens) for spec in find_saes([expand(f"bundled:data/saes/{alias.name}-*")])
    ]


def _matching(pattern: str, listed: Sequence[PlanRow], n_tokens: int) -> list[PlanRow]:
    here = [Path(spec) for spec in find_saes([expand(pattern)]) if Path(spec).exists()]
    if here:
        return [_folder(path, n_tokens) for path in here]
    # A release alone stands for all of its SAEs.
    return [row for row in listed if fnmatch.fnmatch(row.name, pattern) or row.name.startswith(f"{pattern}/")]


def _listed(candidate: Candidate, d_model: int | None, n_tokens: int) -> PlanRow:
    return PlanRow(
        name=f"{candidate.release}/{candidate.sae_id}",
        kind="hub",
        layer=candidate.layer,
        width=candidate.width,
        hook=candidate.hook,
        l0=candidate.expected_l0,
        megabytes=_float32_megabytes(d_model, candidate.width),
        seconds=_encode_seconds(d_model, candidate.width, n_tokens),
    )


def _folder(path: Path, n_tokens: int) -> PlanRow:
    """A local SAE, from its configuration alone."""
    files = [path] if path.is_file() else [p for p in path.iterdir() if p.is_file()]
    megabytes = sum(p.stat().st_size for p in files) / 1e6
    config: dict[str, Any] = {}
    if (path / CONFIG).is_file():
        try:
            config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{path / CONFIG} is not JSON: {error}") from error
    hook = config.get("metadata", {}).get("hook_name") or config.get("hook_name")
    return PlanRow(
        name=path.name,
        kind="here",
        layer=None if hook is None else layer_of(hook),
        width=config.get("d_sae"),
        hook=hook,
        l0=config.get("k"),
        megabytes=round(megabytes, 2),
        seconds=_encode_seconds(config.get("d_in"), config.get("d_sae"), n_tokens),
    )


def _model_row(model: str, alias: ModelAlias | None, rows: Sequence[PlanRow], n_tokens: int) -> PlanRow:
    """The subject model's pass, which ends at the deepest hook of all candidates."""
    layers = [row.layer for row in rows if row.layer is not None]
    deepest = max(layers) if layers else None
    seconds = None
    if alias is not None and alias.d_model is not None and deepest is not None:
        # A transformer layer has about 12 d_model^2 weights, each one multiplication and one addition a token.
        seconds = round(2 * 12 * alias.d_model**2 * (deepest + 1) * n_tokens / FLOPS, 1)
    return PlanRow(model, "model", deepest, None, None, None, None, seconds)


def _float32_megabytes(d_in: int | None, d_sae: int | None) -> float | None:
    if d_in is None or d_sae is None:
        return None
    return round(4 * (2 * d_in * d_sae + d_in + d_sae) / 1e6, 1)


def _encode_seconds(d_in: int | None, d_sae: int | None, n_tokens: int) -> float | None:
    if d_in is None or d_sae is None:
        return None
    return round(2 * d_in * d_sae * n_tokens / FLOPS, 1)

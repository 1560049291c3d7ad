"""What a selection would load, from where, how large and how long. Opens no network and no model."""

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from safesail.domain.ids import layer_of
from safesail.errors import ConfigError
from safesail.resources import expand
from safesail.sae.directory import releases_for
from safesail.sae.settings import find_saes, read_settings
from safesail.subject.aliases import ModelAlias, resolve, unknown_model

N_TOKENS = 60_000
"""About what the concept pairs that come along have, in a subject model's tokens."""

FLOPS = 70e9
"""Multiplications and additions per second of one CPU core in float32, as measured for an SAE's encoder."""


class PlanRow(NamedTuple):
    """One model or SAE that would be loaded."""

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


def candidates_of(model: str, saes: Sequence[str]) -> list[str]:
    """The SAEs named, or those that come along for the model.

    Raises:
        SubjectError: there is no such model.
        ConfigError: none is named and none comes along.
    """
    alias = _alias(model)
    if saes:
        return list(saes)
    if alias is not None and alias.local_saes:
        return [f"bundled:data/saes/{alias.name}-*"]
    raise ConfigError(f"no SAEs for {model} come along; name some with --sae, or list releases with --plan")


def plan(model: str, patterns: Sequence[str] = (), *, n_tokens: int = N_TOKENS) -> list[PlanRow]:
    """The subject model's row, then one per candidate SAE; unknown figures are None.

    Args:
        model: An alias, hub id or folder.
        patterns: Folders (patterns allowed), checkpoints, or patterns of `release/id`; empty takes all that
            come along for the model and all that SAELens' directory lists for it.
        n_tokens: Tokens of the concept pairs.

    Raises:
        SubjectError: there is no such model.
        ConfigError: nothing matches.
    """
    alias = _alias(model)
    listed = [] if alias is None else _listed(alias, n_tokens)
    rows: list[PlanRow] = []
    for pattern in patterns or ([f"bundled:data/saes/{alias.name}-*"] if alias and alias.local_saes else []):
        here = [_folder(Path(s), n_tokens) for s in find_saes([expand(pattern)]) if Path(s).exists()]
        # A release alone stands for all of its SAEs.
        rows += here or [
            row for row in listed if fnmatch.fnmatch(row.name, pattern) or row.name.startswith(f"{pattern}/")
        ]
    rows = list(dict.fromkeys(rows if patterns else [*rows, *listed]))
    if not rows:
        raise ConfigError(
            f"no SAE matches {', '.join(patterns) or 'the model ' + model}; list folders or releases"
        )
    return [_model_row(model, alias, rows, n_tokens), *rows]


def _alias(model: str) -> ModelAlias | None:
    alias = resolve(model)
    if alias is None and not Path(model).is_dir() and model.count("/") != 1:
        raise unknown_model(model)
    return alias


def _listed(alias: ModelAlias, n_tokens: int) -> list[PlanRow]:
    """The SAEs that SAELens' directory lists for a model."""
    d_in = alias.d_model
    return [
        PlanRow(
            f"{c.release}/{c.sae_id}",
            "hub",
            c.layer,
            c.width,
            c.hook,
            c.expected_l0,
            round(4 * (2 * d_in * c.width + d_in + c.width) / 1e6, 1) if d_in and c.width else None,
            _encode_seconds(d_in, c.width, n_tokens),
        )
        for c in releases_for(alias.name)
    ]


def _folder(path: Path, n_tokens: int) -> PlanRow:
    """A local SAE, from its configuration alone."""
    files = [path] if path.is_file() else [p for p in path.iterdir() if p.is_file()]
    config = read_settings(path) or {}
    hook = (config.get("metadata") or config).get("hook_name")
    return PlanRow(
        name=path.name,
        kind="here",
        layer=None if hook is None else layer_of(hook),
        width=config.get("d_sae"),
        hook=hook,
        l0=config.get("k"),
        megabytes=round(sum(p.stat().st_size for p in files) / 1e6, 2),
        seconds=_encode_seconds(config.get("d_in"), config.get("d_sae"), n_tokens),
    )


def _model_row(model: str, alias: ModelAlias | None, rows: Sequence[PlanRow], n_tokens: int) -> PlanRow:
    """The subject model's pass, which ends at the deepest hook of all candidates."""
    deepest = max((row.layer for row in rows if row.layer is not None), default=None)
    seconds = None
    if alias is not None and alias.d_model is not None and deepest is not None:
        # A transformer layer has about 12 d_model^2 weights, each one multiplication and one addition per token.
        seconds = round(2 * 12 * alias.d_model**2 * (deepest + 1) * n_tokens / FLOPS, 1)
    return PlanRow(model, "model", deepest, None, None, None, None, seconds)


def _encode_seconds(d_in: int | None, d_sae: int | None, n_tokens: int) -> float | None:
    return round(2 * d_in * d_sae * n_tokens / FLOPS, 1) if d_in and d_sae else None

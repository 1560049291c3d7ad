"""Where SAEs lie, and whether they can fit a subject model: told from names and settings, without weights or torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safesail.domain.ids import layer_of
from safesail.errors import ConfigError, SaeError
from safesail.resources import expand
from safesail.sae.directory import read_directory
from safesail.sae.settings import CONFIG, find_saes, read_settings
from safesail.subject.aliases import resolve
from safesail.subject.sizes import ModelSizes, sizes_of


def check_saes(specs: Sequence[str], model: str) -> list[str]:
    """Find SAEs and hold those on this machine against the subject model, before anything is loaded.

    Args:
        specs: As `find_saes` takes them, `bundled:` allowed.
        model: The subject model: an alias, a directory or a hub id.

    Returns:
        As `find_saes`.

    Raises:
        ConfigError: nothing matches, two SAEs have one name, or a checkpoint's YAML file is wrong.
        SaeError: an SAE that is nowhere, incomplete, or made for another model.
        SubjectError: `model` is a directory that holds no complete model.
    """
    matching = find_saes([expand(spec) for spec in specs])
    if not matching:
        raise ConfigError(f"no SAE matches {', '.join(specs)}; name a folder with {CONFIG}, or release/id")
    names = [_name(spec) for spec in matching]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two SAEs are called {twice[0]!r}; rename one folder")
    sizes = sizes_of(model)
    for spec, name in zip(matching, names, strict=True):
        settings = read_settings(Path(spec))
        if settings is None and spec.partition("/")[0] not in read_directory():
            raise SaeError(
                f"no SAE at {spec}: not a folder with {CONFIG}, a .pt file or release/id of SAELens"
            )
        if settings is not None and sizes is not None:
            check_settings(name, settings, sizes)
    return matching


def check_settings(name: str, settings: dict[str, Any], model: ModelSizes) -> None:
    """Refuse an SAE of another width, or of a layer that the subject model does not have.

    Raises:
        SaeError: it does not fit; the error names the model that it was made for, where its settings do.
    """
    metadata = settings.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else settings  # older folders keep both on one level
    d_in, hook, made_for = settings.get("d_in"), metadata.get("hook_name"), metadata.get("model_name")
    alias = resolve(str(made_for)) if made_for else None
    right = f"--model {alias.name if alias else made_for}" if made_for else "the model that it was made for"
    if isinstance(d_in, int) and model.d_model is not None and d_in != model.d_model:
        raise SaeError(
            f"{name} reads {d_in} numbers per token, {model.model_id} has {model.d_model}; use {right}"
        )
    layer = layer_of(hook) if isinstance(hook, str) else None
    if model.n_layers is not None and isinstance(hook, str) and (layer is None or layer >= model.n_layers):
        raise SaeError(
            f"{name} sits at {hook}, which {model.model_id} with {model.n_layers} layers does not have; use {right}"
        )


def _name(spec: str) -> str:
    path = Path(spec)
    return path.stem if path.suffix == ".pt" else path.resolve().name if path.is_dir() else spec

"""Where SAEs lie, and whether they can fit a subject model: told from names and settings, without weights or torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safesail.domain.ids import layer_of
from safesail.errors import ConfigError, SaeError
from safesail.resources import expand
from safesail.sae.checkpoint_config import CheckpointSource
from safesail.sae.directory import find_candidate, made_for
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
        settings = listed_settings(spec) if settings is None else settings
        if sizes is not None:
            check_settings(name, settings, sizes)
    return matching


def listed_settings(spec: str) -> dict[str, Any]:
    """What SAELens' directory tells of `release/id`, in the form of a cfg.json.

    Raises:
        SaeError: it does not list that SAE.
    """
    listed = find_candidate(spec)
    model = made_for(listed.release)
    made = {} if model is None else {"d_in": model.d_model, "model_name": model.hub_id}
    return {**made, **({} if listed.hook is None else {"hook_name": listed.hook})}


def check_here(specs: Sequence[str | CheckpointSource], model: ModelSizes) -> list[str]:
    """Hold SAEs against a subject model as `check_saes` does, and see that checkpoints have been fetched.

    Args:
        specs: Those that `check_saes` takes, and checkpoints with their settings.
        model: What is known of the subject model.

    Returns:
        As `check_saes`, of the specs that are names.

    Raises:
        ConfigError: as `check_saes`.
        SaeError: as `check_saes`, or a checkpoint that does not fit or is not here; the error says how to get it.
    """
    sources = [spec for spec in specs if not isinstance(spec, str)]
    for source in sources:
        check_checkpoint(source, model)
        if not Path(source.path).is_file():
            raise SaeError(f"no checkpoint at {source.path}; {source.fetch}")
    named = [spec for spec in specs if isinstance(spec, str)]
    return check_saes(named, model.model_id) if named or not sources else []


def check_checkpoint(source: CheckpointSource, model: ModelSizes) -> None:
    """Refuse a checkpoint whose settings do not fit a subject model.

    Raises:
        SaeError: another width, or a layer that the model does not have.
    """
    settings = {"d_in": source.d_in, "hook_name": source.hook}
    check_settings(Path(source.path).stem, settings, model)


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

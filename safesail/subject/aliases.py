"""Short names of subject models, read from `data/models.yaml`."""

import difflib
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import PositiveInt

from safesail.domain.config import Config, load_yaml
from safesail.errors import ConfigError, SubjectError
from safesail.resources import resource_dir


class ModelAlias(Config):
    """What a short name such as `llama` stands for."""

    name: str
    hub_id: str
    """Repository on the Hugging Face hub."""

    n_layers: PositiveInt | None = None
    """None where the project has not checked it."""

    d_model: PositiveInt | None = None
    parameters: PositiveInt | None = None
    """All weights, those of tied embeddings once."""

    layer_parameters: PositiveInt | None = None
    """Weights of one layer."""

    hub_dtype: Literal["float32", "bfloat16"] | None = None
    """Number format of the files on the hub."""

    hook: str | None = None
    """Hook point studied when none is named."""

    releases: tuple[str, ...] = ()
    """SAE releases for this model in SAELens' directory."""

    local_saes: bool = False
    """Whether `data/saes` has SAEs for this model."""

    note: str | None = None
    """Where else SAEs are, or what to know before use."""


@cache
def load_aliases(path: Path | None = None) -> dict[str, ModelAlias]:
    """All aliases by name, in the file's order.

    Raises:
        ConfigError: the file has a wrong or unknown setting.
    """
    source = resource_dir("data") / "models.yaml" if path is None else path
    entries = load_yaml(source).get("models")
    if not isinstance(entries, dict):
        raise ConfigError(f"{source}: needs a mapping `models`")
    return {
        name: ModelAlias.read({"name": name, **(entry or {})}, f"{source}: {name}")
        for name, entry in entries.items()
    }


def resolve(name_or_path: str) -> ModelAlias | None:
    """The alias called `name_or_path`, or the one of that hub id; None for anything else."""
    aliases = load_aliases()
    if name_or_path in aliases:
        return aliases[name_or_path]
    return next((alias for alias in aliases.values() if alias.hub_id == name_or_path), None)


def unknown_model(name: str) -> SubjectError:
    """The error for a name that is no alias, directory or hub id, naming near aliases."""
    near = difflib.get_close_matches(name, list(load_aliases()), n=3)
    hint = f"did you mean {', '.join(near)}?" if near else "`safesail models` lists the aliases"
    return SubjectError(f"no model {name!r}: not an alias, a directory or a hub id (owner/name); {hint}")

"""Base of every set of settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from safesail.errors import ConfigError


class Config(BaseModel):
    """A frozen set of settings; an unknown key is an error, not a no-op."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def read(cls, values: Mapping[str, Any], source: str) -> Self:
        """Check `values`, read from `source` (a file or the command line), naming every fault at once.

        Raises:
            ConfigError: a setting is unknown, missing or wrong.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            faults = "; ".join(f"{_path(e['loc'])}{e['msg']}" for e in error.errors())
            raise ConfigError(f"{source}: {faults}") from error

    @classmethod
    def from_yaml(cls, path: Path) -> Self:
        """Read and check the YAML file at `path`.

        Raises:
            ConfigError: the file is missing, is not YAML, or holds a wrong setting.
        """
        return cls.read(load_yaml(path), str(path))


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in the YAML file at `path`.

    Raises:
        ConfigError: the file is missing, is not YAML, or is not a mapping.
    """
    if not path.is_file():
        raise ConfigError(f"no file at {path}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    # ValueError: not UTF-8, or a date such as 2024-13-45; RecursionError: nested without end.
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must be a mapping of settings, not {type(content).__name__}")
    return content


def _path(location: tuple[int | str, ...]) -> str:
    return "".join(f"{part}: " for part in location)

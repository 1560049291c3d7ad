"""Executes a pipeline file: select, harvest, explain and score, release."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from safesail.domain.ids import FeatureId
from safesail.errors import ConfigError, NotFoundError
from safesail.pipeline.config import PipelineConfig
from safesail.pipeline.summary import Summary, summarise
from safesail.resources import expand, resource_dir
from safesail.store.connection import Db, open_writer


def find_pipeline(name_or_path: str) -> Path:
    """The file itself, or the one of that name among those that come with Safe-SAIL.

    Raises:
        NotFoundError: neither exists.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    folder = resource_dir("pipelines")
    own = folder / f"{path.name.removesuffix('.yaml')}.yaml"
    if own.is_file():
        return own
    known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
    raise NotFoundError(f"no pipeline {name_or_path!r}: not a file, and not one of {known}")

"""What a pipeline file says."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from safesail.autointerp.config import AutointerpConfig
from safesail.catalog.config import ReleaseOptions
from safesail.domain.config import Config
from safesail.errors import NotFoundError
from safesail.harvest.config import HarvestConfig
from safesail.llm.budget import Price
from safesail.resources import resource_dir
from safesail.sae.checkpoint_config import CheckpointSource
from safesail.selection.config import SelectionConfig


class ChatConfig(Config):
    """Which models explain and simulate."""

    explainer: str = "lexical"
    """`lexical`, the built-in model, or the name of a model at the endpoint."""

    simulator: str = "lexical"
    base_url: str | None = None
    """Of an OpenAI-compatible endpoint; None: OPENAI_BASE_URL, else OpenAI."""

    prices: dict[str, Price] = Field(default_factory=dict)
    """By model, in US dollars for a million tokens: what a budget in dollars and a plan go by."""


class PipelineConfig(Config):
    """One pipeline, end to end. Paths may begin with `bundled:` for the files that come with Safe-SAIL."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    model: str
    device: str = "auto"
    """Where the model and the SAEs run, as `--device` of the stages takes it."""

    dtype: Literal["float32", "tf32", "bfloat16", "float16"] = "float32"
    """Number format of the subject model; SAEs run in float32. tf32: float32, its products made in TF32 on CUDA."""

    saes: tuple[str | CheckpointSource, ...] = Field(min_length=1)
    """Candidates: folders (patterns allowed), checkpoints, or `release/id`; a checkpoint with its settings where no
    YAML file beside it has them."""

    concepts: tuple[str, ...] = Field(min_length=1)
    """Files or folders of contrastive pairs."""

    domains: tuple[str, ...] = ()
    """Only concepts of these domains; empty: all."""

    texts: tuple[str, ...] = Field(min_length=1)
    """What the chosen SAE's features are harvested on."""

    budget: str = "unlimited"
    """LLM tokens the run may newly spend, e.g. `200k`."""

    max_features: Annotated[int, Field(ge=2)] = 100
    """Candidate features that are explained, the most specific first."""

    min_windows: Annotated[int, Field(ge=1)] = 5
    """Candidates that fire in fewer held-out windows are left out: no score could be computed."""

    selection: SelectionConfig = SelectionConfig()
    harvest: HarvestConfig = HarvestConfig()
    chat: ChatConfig = ChatConfig()
    autointerp: AutointerpConfig = AutointerpConfig()
    release: ReleaseOptions


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

"""What Safe-SAIL's own checkpoints do not say of themselves: settings, read without torch."""

from typing import Literal

from pydantic import NonNegativeInt, PositiveInt, model_validator

from safesail.domain.config import Config


class CheckpointConfig(Config):
    """What a `.pt` file does not say of itself: the YAML file beside it."""

    hook: str
    architecture: Literal["topk", "relu", "jumprelu"] = "topk"
    k: PositiveInt | None = None
    """Active features per token; needed for topk."""

    component: NonNegativeInt = 0
    """Place on the leading axis of every tensor."""

    @model_validator(mode="after")
    def _has_k(self) -> "CheckpointConfig":
        if self.architecture == "topk" and self.k is None:
            raise ValueError("architecture topk needs k")
        return self


class CheckpointSource(CheckpointConfig):
    """A checkpoint that a pipeline names with its settings, whether it is on this machine yet or not."""

    path: str
    """The `.pt` file; without its ending it is the SAE's id."""

    d_in: PositiveInt
    d_sae: PositiveInt
    fetch: str
    """What the user has to do where the file is missing, in one line."""

    @property
    def settings(self) -> CheckpointConfig:
        """What `open_checkpoint` has to be told."""
        return CheckpointConfig(**self.model_dump(include=set(CheckpointConfig.model_fields)))

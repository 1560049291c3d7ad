"""Settings of a diagnosis."""

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt

from safesail.domain.config import Config


class DiagnoseConfig(Config):
    """How a prompt is put to the model."""

    chat: bool = False
    """Put the model's chat template round the prompt; its tokens are marked."""

    generate: Annotated[int, Field(ge=0, le=4_096)] = 0
    """Tokens that the model answers, at most; what fires on them is diagnosed too."""

    target: str | None = None
    """A text whose first token is the prediction that is traced; "" is the model's own next token; None traces none."""


class PathConfig(Config):
    """How much of what a prediction rests on is kept."""

    max_nodes: Annotated[int, Field(ge=1, le=500)] = 40
    """Features on tokens, at most."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The strongest nodes that together hold this share of the sum of all absolute attributions; edges alike."""


class CompareConfig(Config):
    """How two sets of prompts are held against each other."""

    chat: bool = False
    """Put the model's chat template round each prompt; what fires on its tokens is left out."""

    translations: bool = False
    """Prompt i of one set says what prompt i of the other says, in another language."""

    level: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Largest false discovery rate q at which a difference counts as shown."""

    draws: PositiveInt | None = None
    """Permutations of the prompts; None: as many as the number of features asks for."""

    batch_tokens: PositiveInt = 1_024
    """Tokens, padding included, that go through the model at once."""

    seed: NonNegativeInt = 0

"""Settings of explaining."""

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt

from safesail.domain.config import Config


class ExplainConfig(Config):
    """What an explainer is shown and asked."""

    model: str = "lexical"
    """Name of the model that explains, as its endpoint knows it."""

    template: str = "v1"
    """Prompt template `prompts/explain/<template>.j2`."""

    n_active: PositiveInt = 10
    """Windows with the feature's activity shown at most."""

    n_controls: NonNegativeInt = 8
    """Windows without activity shown at most."""

    tokens_before: NonNegativeInt = 24
    """Tokens shown ahead of a window's strongest one; the rest of the window is cut off to save tokens."""

    tokens_after: NonNegativeInt = 8
    """Tokens shown behind it."""

    max_words: PositiveInt = 60
    """Words asked for at most; an answer of more than twice as many is refused."""

    tags: bool = True
    """Ask for tags from the taxonomy."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = 0.0
    """None: not sent, as reasoning models demand."""

    max_tokens: PositiveInt = 300
    """Room for the answer. Reasoning models need thousands."""

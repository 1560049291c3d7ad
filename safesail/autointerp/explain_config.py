"""Settings of explaining."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from safesail.domain.config import Config

Answer = Literal["json", "text"]

_TEMPLATES: dict[Answer, str] = {"json": "v1", "text": "text_v1"}


class ExplainConfig(Config):
    """What an explainer is shown and asked."""

    model: str = "lexical"
    """Name of the model that explains, as its endpoint knows it."""

    answer: Answer = "json"
    """`json`: explanation, tags and confidence. `text`: one plain sentence, for models too small to hold JSON."""

    template: str | None = None
    """Prompt template `prompts/explain/<template>.j2`; None: the one of the form of answer."""

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
    """Ask for tags from the taxonomy; a plain sentence has none."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = 0.0
    """None: not sent, as reasoning models demand."""

    max_tokens: PositiveInt = 300
    """Room for the answer. Reasoning models need thousands."""

    @property
    def template_name(self) -> str:
        """Template in use."""
        return self.template or _TEMPLATES[self.answer]

    @property
    def asks_tags(self) -> bool:
        """Whether the answer is to hold tags."""
        return self.tags and self.answer == "json"

"""Settings of a harvest."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from safesail.domain.config import Config


class HarvestConfig(Config):
    """What to run the subject model on, and how much of it to keep."""

    n_ctx: Annotated[int, Field(ge=4, le=8192)] = 64
    """Most tokens of text in a window, BOS not counted."""

    n_tokens: PositiveInt | None = None
    """Stop after the document that reaches this many tokens; None: all of the text."""

    shard_tokens: PositiveInt = 8_192
    """Tokens a shard holds at least; a killed harvest loses the work of one shard at most."""

    batch_tokens: PositiveInt | Literal["auto"] = 2_048
    """Tokens that go through the subject model at once, padding included, in all streams together; `auto`: the fastest
    that fits."""

    memory_gb: PositiveFloat | None = None
    """Memory that `auto` stays under, in 10^9 bytes; None: four fifths of what the machine or GPU has."""

    features: Literal["all", "candidates", "listed"] = "all"
    """Whose nonzeros are kept: all features, the candidates that a selection nominated, or those of a list."""

    whole_documents: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of documents, drawn uniformly, of which every feature's nonzeros are kept whatever `features` says."""

    precision: Literal["f32", "u8"] = "f32"
    """Of stored activations: exact, or one byte, with an error of at most 1/510 of the feature's maximum."""

    chat_template: bool = False
    """Put the opening of the model's chat template before each window; its tokens never count as activity."""

    column: str | None = None
    """Column that holds the text, in tables and JSON; None: found by its name."""

    seed: int = 0
    """Decides splits and the sample of whole documents, through hashes of the document."""

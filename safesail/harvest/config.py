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

    shard_tokens: PositiveInt | None = None
    """Tokens a shard holds at least; a killed harvest loses the work of one shard at most. None: 8,192 on a CPU, on a
    GPU up to 65,536, by the host's memory."""

    batch_tokens: PositiveInt | Literal["auto"] | None = None
    """Tokens that go through the subject model at once, padding included, in all streams together; `auto`: the fastest
    that fits, measured; None: 2,048 on a CPU, on a GPU what fits its free memory by arithmetic."""

    memory_gb: PositiveFloat | None = None
    """Memory that batches stay under, in 10^9 bytes; None: four fifths of what the machine has, or of what is free on
    the GPU."""

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

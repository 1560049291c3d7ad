"""Settings of the measurement of effects."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from safesail.domain.config import Config

Condition = Literal["ablate", "double", "steer"]
"""The feature off; twice as strong; stronger by `strength` times its maximum."""

Texts = Literal["firing", "neutral"]
"""Held-out windows in which the feature fires, edited where it does; windows drawn at random, edited at every token."""


class InterveneConfig(Config):
    """How effects are measured. The model reads `context` tokens as they are; the edit begins at the next one."""

    n_texts: Annotated[int, Field(ge=2)] = 12
    """Held-out windows per feature, of as many documents: those in which it fires most strongly."""

    n_neutral: Annotated[int, Field(ge=2)] = 12
    """Held-out windows of neutral text, the same for all features of an SAE."""

    min_texts: Annotated[int, Field(ge=2)] = 4
    """Documents below which an effect is undefined."""

    context: PositiveInt = 24
    """Tokens before the edit begins, which is where the feature is strongest."""

    edited: PositiveInt = 5
    """Tokens from there on, edited and measured."""

    n_null_features: Annotated[int, Field(ge=3)] = 20
    """Other features of like density, whose directions are the null."""

    n_random: PositiveInt = 5
    """Random directions, a second null."""

    set_size: PositiveInt = 20
    """Tokens of a set, at most."""

    max_cost: Annotated[float, Field(gt=0)] = 0.1
    """Nats per token that steering may add to the cross-entropy of neutral text: sets the strength."""

    strength: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """In multiples of the feature's maximum; None: the largest found whose cost is not above `max_cost`."""

    draws: PositiveInt = 400
    """Bootstrap resamples of the texts."""

    seed: NonNegativeInt = 0
    texts: tuple[str, ...] = ()
    """Held-out texts in place of the harvest's test split: files, folders, `hf:NAME`."""

    batch_rows: PositiveInt = 96
    """Rows that go through the model at once: windows times directions."""

"""Settings of a selection."""

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt

from safesail.domain.config import Config

Share = Annotated[float, Field(ge=0, le=1)]


class SelectionConfig(Config):
    """How SAEs are held against concept pairs."""

    candidate_threshold: Annotated[float, Field(gt=0, le=1)] = 0.5
    """A candidate feature fires on q+ only in at least this share of a concept's pairs."""

    min_lift: Annotated[float, Field(gt=0, le=1)] = 0.25
    """And that share exceeds the share of pairs in which it fires on q- only by at least this much."""

    readout_features: PositiveInt = 5
    """Features that together stand for a concept, at most."""

    keep_floor: Share = 0.25
    """Features below this share on both sides are not stored for a concept."""

    languages: tuple[str, ...] | None = None
    """Only pairs in these languages; None takes all."""

    forms: tuple[str, ...] | None = None
    """Only pairs of these forms; None takes all."""

    controls: tuple[str, ...] = ("ordinary",)
    """Domains that are scored but left out of the overall figure."""

    activity_quantile: Annotated[float, Field(ge=0, lt=1)] | None = None
    """A feature fires above this quantile of its own activations on the pairs; None: above zero."""

    draws: PositiveInt = 400
    """Bootstrap resamples of the pairs."""

    seed: NonNegativeInt = 0
    batch_tokens: PositiveInt = 1024
    """Tokens, padding included, that go through the subject model at once."""

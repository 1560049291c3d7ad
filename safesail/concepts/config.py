"""Settings of the check of concept pairs, and of asking a chat model for them."""

from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from safesail.domain.config import Config

Share = Annotated[float, Field(ge=0, le=1)]


class CheckConfig(Config):
    """What makes a contrastive pair."""

    max_length_ratio: Annotated[float, Field(ge=1)] = 1 / 0.7
    """Longer side over shorter side, in words (Chinese: characters)."""

    min_overlap: Share = 0.35
    """Least share of words that both sides have in the same order: 2 matches / words of both."""

    max_word_share: Share = 0.4
    """Most of a concept's pairs in one language that a single word may mark."""

    min_pairs: NonNegativeInt = 8
    """Fewer pairs of a language than this give a warning."""

    min_per_form: NonNegativeInt = 2
    """Fewer English pairs of a form than this give a warning."""

    max_mean_length_gap: NonNegativeFloat = 0.15
    """Most that one side of a concept may be longer on average, as a share: length alone makes features fire."""


class GenerateConfig(Config):
    """How a chat model is asked for pairs."""

    template: str = "generate_v1"
    """Prompt template `prompts/concepts/<template>.j2`."""

    per_call: PositiveInt = 10
    """Pairs asked for at once at most."""

    tokens_per_pair: PositiveInt = 100
    """Room for one pair in the answer. Reasoning models need far more."""

    max_fruitless: PositiveInt = 3
    """Answers in a row after which the set is no larger: then it is given up."""

    max_rounds: PositiveInt = 5
    """Calls at most, as a multiple of those that would do if every pair were kept."""

    n_recent: NonNegativeInt = 6
    """Of the pairs kept last, how many a request shows, so that they are not written again."""

    overused_share: Share = 0.2
    """A word that marks more of the pairs than this is not to be used again."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = 1.0
    """None: not sent, as reasoning models demand."""

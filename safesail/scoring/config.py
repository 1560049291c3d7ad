"""Settings of scoring."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from safesail.domain.config import Config

Method = Literal["segment", "token", "detection", "fuzzing"]
"""`segment` is the default and the cheap one; `token` asks for every token; the last two are Delphi's."""

_TEMPLATES: dict[Method, str] = {
    "segment": "segment_v1",
    "token": "token_v1",
    "detection": "detection_v1",
    "fuzzing": "fuzzing_v1",
}


class ScoringConfig(Config):
    """How an explanation is tested."""

    model: str = "lexical"
    """Name of the model that simulates, as its endpoint knows it."""

    method: Method = "segment"

    template: str | None = None
    """Prompt template `prompts/simulate/<template>.j2`; None: the method's own."""

    segment_tokens: PositiveInt = 8
    """Length of a segment, about; it ends at a word boundary."""

    windows_per_call: Annotated[int, Field(ge=1, le=26)] = 10
    """Windows in one prompt, which names them A to Z; the token method always asks about one."""

    graded: bool = False
    """Segments are rated 1 to 10 instead of named, and compared with their largest activation."""

    threshold: NonNegativeFloat = 0.0
    """A unit counts as active when its largest activation is greater than this, in SAE units."""

    draws: PositiveInt = 1000
    """Bootstrap resamples of the windows behind the interval."""

    stop_width: Annotated[float, Field(gt=0, le=2)] | None = None
    """Stop asking about further windows once the interval is this narrow; None: ask about all."""

    seed: NonNegativeInt = 0
    """Of the bootstrap and of the marks that fuzzing puts at random."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = 0.0
    """None: not sent, as reasoning models demand."""

    extra_tokens: NonNegativeInt = 0
    """Room in the answer beside what its form needs, for models that think aloud."""

    @property
    def template_name(self) -> str:
        """Template in use."""
        return self.template or _TEMPLATES[self.method]

    @property
    def calls_windows(self) -> int:
        """Windows that go into one call."""
        return 1 if self.method == "token" else self.windows_per_call

    @property
    def label(self) -> str:
        """Name of the method under which scores are stored: settings that differ from the default are in it."""
        default = type(self)()
        parts: list[str] = [self.method]
        if self.method == "segment":
            parts += [f"s{self.segment_tokens}"] if self.segment_tokens != default.segment_tokens else []
            parts += ["graded"] if self.graded else []
        if self.method != "token" and self.windows_per_call != default.windows_per_call:
            parts.append(f"w{self.windows_per_call}")
        if self.threshold != default.threshold:
            parts.append(f"t{self.threshold:g}")
        return "-".join(parts)

"""Settings of scoring."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from safesail.domain.config import Config

Method = Literal["segment", "token", "detection", "fuzzing"]
"""`segment` is the default and the cheap one; `token` asks for every token; the last two are Delphi's."""

Answers = Literal["active", "list"]
"""`active`: an answer names the active segments only; `list`: it has a value for every segment."""

_TEMPLATES: dict[Method, str] = {
    "segment": "segment_v1",
    "token": "token_v1",
    "detection": "detection_v1",
    "fuzzing": "fuzzing_v1",
}


class ScoringConfig(Config):
    """How an explanation is tested.

    The defaults of the segment method are the cheapest that keep the token method's verdicts: on 95 features of
    the demo they take 86 % fewer tokens than it, and their scores correlate with its at 0.95. Segments of 4 tokens
    agree as well and save 83 %; of 8, or without ratings, they save more and agree less
    (`tests/benchmarks/bench_scoring_study.py`).
    """

    model: str = "lexical"
    """Name of the model that simulates, as its endpoint knows it."""

    method: Method = "segment"

    template: str | None = None
    """Prompt template `prompts/simulate/<template>.j2`; None: the method's own."""

    segment_tokens: PositiveInt = 6
    """Length of a segment, about; it ends at a word boundary."""

    windows_per_call: Annotated[int, Field(ge=1, le=26)] = 20
    """Windows in one prompt, which names them A to Z; the token method always asks about one."""

    graded: bool = True
    """Segments are rated 1 to 10 and compared with their largest activation; else 1 or 0: active or not."""

    answers: Answers = "active"

    threshold: NonNegativeFloat = 0.0
    """A unit counts as active when its largest activation is greater than this, in SAE units."""

    draws: PositiveInt = 1000
    """Bootstrap resamples of the windows behind the interval."""

    stop_width: Annotated[float, Field(gt=0, le=2)] | None = None
    """Stop asking about further windows once the interval is this narrow; None: ask about all."""

    decide_at: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Stop once the interval lies on one side of this score, which decides whether an explanation is kept."""

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
            parts += ["list"] if self.answers == "list" else []
            parts += [] if self.graded else ["binary"]
        if self.method != "token" and self.windows_per_call != default.windows_per_call:
            parts.append(f"w{self.windows_per_call}")
        if self.threshold != default.threshold:
            parts.append(f"t{self.threshold:g}")
        parts += [] if self.stop_width is None else [f"stop{self.stop_width:g}"]
        parts += [] if self.decide_at is None else [f"at{self.decide_at:g}"]
        return "-".join(parts)

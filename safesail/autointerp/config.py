"""Settings of explaining and scoring."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from safesail.domain.config import Config
from safesail.domain.methods import DEFAULT_METHOD, Method
from safesail.store.selection import NEAR

Answer = Literal["json", "text"]

Answers = Literal["active", "list"]
"""`active`: an answer names the active segments only; `list`: it has a value for every segment."""

_EXPLAIN_TEMPLATES: dict[Answer, str] = {"json": "v1", "text": "text_v1"}
SEVERAL = "several_v1"
"""Template of a prompt about several features."""

_SIMULATE_TEMPLATES: dict[Method, str] = {
    "segment": "segment_v1",
    "token": "token_v1",
    "detection": "detection_v1",
    "fuzzing": "fuzzing_v1",
    "pooled": "pooled_v1",
}


class ExemplarConfig(Config):
    """How many windows of each kind are taken."""

    n_active: Annotated[int, Field(ge=1)] = 10
    """Windows in which the feature fires, spread over activation levels."""

    n_random: Annotated[int, Field(ge=0)] = 5
    """Windows in which it does not fire, drawn from the whole split."""

    n_hard: Annotated[int, Field(ge=0)] = 5
    """Windows in which it does not fire although they hold a token on which it often does."""

    n_boundary: Annotated[int, Field(ge=0)] = 0
    """Windows in which it does not fire, of documents in which it fires elsewhere."""

    n_levels: Annotated[int, Field(ge=1, le=10)] = 5
    """Activation levels, cut by linear steps up to the feature's 0.999 quantile."""

    seed: int = 0


class ExplainConfig(Config):
    """What an explainer is shown and asked."""

    model: str = "lexical"
    """Name of the model that explains, as its endpoint knows it."""

    answer: Answer = "json"
    """`json`: explanation, tags and confidence. `text`: one plain sentence, for models too small to hold JSON."""

    template: str | None = None
    """Prompt template `prompts/explain/<template>.j2`; None: the one of the form of answer."""

    order: Literal["strongest", "levels"] = "strongest"
    """Which windows are shown, of those that were taken: the strongest, or some of every level."""

    n_active: PositiveInt = 10
    """Windows with the feature's activity shown at most."""

    n_controls: NonNegativeInt = 4
    """Windows without activity shown at most."""

    tokens_before: NonNegativeInt = 8
    """Tokens shown ahead of a window's strongest one; the rest of the window is cut off to save tokens."""

    tokens_after: NonNegativeInt = 1
    """Tokens shown behind it."""

    max_words: PositiveInt = 40
    """Words asked for at most; an answer of more than twice as many is refused."""

    features_per_call: Annotated[int, Field(ge=1, le=20)] = 5
    """Features that share one prompt, with its instructions and tags; more than one are answered as JSON."""

    tags: bool = True
    """Ask for tags from the taxonomy; a plain sentence has none."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = 0.0
    """None: not sent, as reasoning models demand."""

    max_tokens: PositiveInt = 300
    """Room for the answer. Reasoning models need thousands."""

    @property
    def template_name(self) -> str:
        """Template of a prompt about one feature."""
        return self.template or _EXPLAIN_TEMPLATES[self.answer]

    @property
    def several(self) -> bool:
        """Whether several features may share one prompt: a plain sentence is about one."""
        return self.features_per_call > 1 and self.answer == "json" and self.template is None

    @property
    def call_features(self) -> int:
        """Features that go into one call."""
        return self.features_per_call if self.several else 1

    @property
    def asks_tags(self) -> bool:
        """Whether the answer is to hold tags."""
        return self.tags and self.answer == "json"


class PoolConfig(Config):
    """How several features share one prompt."""

    features: Annotated[int, Field(ge=1, le=40)] = 12
    """Explanations in one prompt, at most."""

    n_active: Annotated[int, Field(ge=1)] = 2
    """Windows in which it fires that each of them contributes."""

    n_silent: Annotated[int, Field(ge=0)] = 1
    """Windows in which it does not fire, hard and random ones in turn."""

    tokens_before: NonNegativeInt = 17
    """Tokens of a window ahead of its strongest one; the rest is cut off to save tokens."""

    tokens_after: NonNegativeInt = 6
    """Tokens behind it."""

    most: PositiveInt = 12
    """Segments that an answer may name for one explanation; one with more than twice as many is refused."""

    min_rounds: PositiveInt = 2
    """Prompts that a feature takes part in before tokens go to the next features."""

    max_rounds: PositiveInt = 4
    """Prompts that it takes part in at most, while there are tokens and windows that were not shown."""

    hard: bool = False
    """Let near-duplicates and features of one concept share a prompt: they are then each other's controls."""

    @model_validator(mode="after")
    def _ordered(self) -> "PoolConfig":
        if self.min_rounds > self.max_rounds:
            raise ValueError(f"min_rounds {self.min_rounds} is above max_rounds {self.max_rounds}")
        return self


class ScoringConfig(Config):
    """How an explanation is tested.

    The defaults of the segment method are the cheapest that keep the token method's verdicts: on 95 features of
    the demo they take 86 % fewer tokens than it, and their scores correlate with its at 0.95. Segments of 4 tokens
    agree as well and save 83 %; of 8, or without ratings, they save more and agree less
    (`tests/benchmarks/bench_scoring_study.py`).
    """

    model: str = "lexical"
    """Name of the model that simulates, as its endpoint knows it."""

    method: Method = DEFAULT_METHOD

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

    pool: PoolConfig = PoolConfig()
    """Of the pooled method."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = 0.0
    """None: not sent, as reasoning models demand."""

    extra_tokens: NonNegativeInt = 0
    """Room in the answer beside what its form needs, for models that think aloud."""

    @property
    def template_name(self) -> str:
        """Template in use."""
        return self.template or _SIMULATE_TEMPLATES[self.method]

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
        if self.method == "pooled":
            parts += [] if self.pool.features == default.pool.features else [f"g{self.pool.features}"]
            parts += ["hard"] if self.pool.hard else []
        elif self.method != "token" and self.windows_per_call != default.windows_per_call:
            parts.append(f"w{self.windows_per_call}")
        if self.threshold != default.threshold:
            parts.append(f"t{self.threshold:g}")
        parts += [] if self.stop_width is None else [f"stop{self.stop_width:g}"]
        parts += [] if self.decide_at is None else [f"at{self.decide_at:g}"]
        return "-".join(parts)


class IntruderConfig(Config):
    """How intruder detection asks about a feature."""

    n_trials: PositiveInt = 6
    """Groups of texts asked about for each feature."""

    n_texts: Annotated[int, Field(ge=3, le=10)] = 5
    """Texts in a group, one of which does not belong."""

    tokens_before: NonNegativeInt = 8
    """Tokens of a text ahead of its strongest one."""

    tokens_after: NonNegativeInt = 1
    """Tokens behind it."""

    trials_per_call: Annotated[int, Field(ge=1, le=40)] = 12
    """Groups in one prompt, each of another feature."""

    expected: Annotated[float, Field(gt=0, lt=1)] = 0.6
    """Where it goes first: share of trials that a feature worth explaining is expected to pass."""

    error: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """Where it goes first: chance of a wrong verdict of either kind."""

    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _above_chance(self) -> "IntruderConfig":
        if self.expected <= self.chance:
            raise ValueError(f"expected {self.expected} is not above chance, {self.chance:.3f}")
        return self

    @property
    def chance(self) -> float:
        """Share of trials passed by drawing lots: where the intruder stands is drawn."""
        return 1 / self.n_texts


class OrderConfig(Config):
    """What makes a feature come first."""

    weights: dict[str, NonNegativeFloat] = Field(default_factory=dict)
    """By domain, how much a feature of it counts; 1 where nothing is said, 0 leaves the domain out."""

    novelty: Annotated[float, Field(gt=0, le=1)] = 0.7
    """What is left of a concept's value each time a feature for it was taken; 1: all of it."""


class NearDuplicatesConfig(Config):
    """When two features count as nearly the same."""

    direction: Annotated[float, Field(ge=NEAR, le=1)] = 0.9
    """Cosine of their decoder directions, at least."""

    activity: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Cosine of their activations over the harvested tokens, at least."""


class AutointerpConfig(Config):
    """How features are explained and scored, within a budget."""

    explain: ExplainConfig = ExplainConfig()
    scoring: ScoringConfig = ScoringConfig()
    intruder: IntruderConfig = IntruderConfig()
    first: Literal["intruder"] | None = None
    """`intruder`: features that fail intruder detection are not explained; with pooled scoring only."""

    train_exemplars: ExemplarConfig = ExemplarConfig()
    """Windows of the `train` split that the explainer sees."""

    test_exemplars: ExemplarConfig = ExemplarConfig()
    """Windows of the `test` split that the score is computed on."""

    chance_every: int = 1
    """The chance line is measured on every n-th feature; 0: on none. It doubles the cost of a score."""

    order: OrderConfig = OrderConfig()
    """Which features come first."""

    near_duplicates: NearDuplicatesConfig = NearDuplicatesConfig()
    """Which features share one explanation."""

    tell_concept: bool = False
    """Tell the explainer which concept nominated the feature; it may then find what it was told."""

    concurrency: int = 8
    """Features under way at once."""

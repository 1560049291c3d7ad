"""Records that travel between stages."""

from dataclasses import dataclass, field
from typing import Literal

from safesail.domain.ids import FeatureId

NOT_STATED = "not stated"
"""Where a catalog does not say which hook, explainer or simulator, and the field must hold something."""

Split = Literal["train", "test"]
"""`train` may be shown to an explainer; scores are computed on `test` only. Stores of earlier versions also hold rows
of a split `calibration`, which no stage reads."""

Kind = Literal["active", "random", "hard", "boundary"]
"""Why a window was taken: the feature fires in it, or it is a control in which it does not (any window, one with
the same words, or one of a document in which it fires elsewhere)."""


Verdict = Literal["yes", "no", "not shown"]
"""Whether an explanation knows more than a look-up: its interval lies above 0, below 0, or holds 0."""


@dataclass(frozen=True)
class SubjectInfo:
    """The language model whose features are studied; None for what a catalog that names it does not say."""

    model_id: str
    """Alias or path that the user gave, e.g. `"smollm2"`."""

    fingerprint: str | None = None
    """SHA-256 over the model's configuration and weights."""

    d_model: int | None = None
    n_layers: int | None = None


@dataclass(frozen=True)
class LoadedSubject(SubjectInfo):
    """A language model that runs: its fingerprint and sizes are known."""

    fingerprint: str = field(kw_only=True)
    d_model: int = field(kw_only=True)
    n_layers: int = field(kw_only=True)
    dtype: str = field(default="float32", kw_only=True)
    """Number format that it runs in: it changes what comes out."""


@dataclass(frozen=True)
class SaeRecord:
    """What is known of an SAE without its weights; None for what nobody said."""

    sae_id: str
    model_id: str
    hook: str
    """Hook point in TransformerLens' names, e.g. `"blocks.14.hook_mlp_out"`, or `NOT_STATED`."""

    d_in: int | None
    d_sae: int | None
    architecture: str | None
    """`"topk"`, `"standard"`, `"jumprelu"`, ... in SAELens' words."""

    sha256: str | None
    """Over the weights, names and shapes included."""

    source: str
    """Where it was loaded from: a release and id, or a folder's name (never a full path)."""

    k: int | None = None
    """Active features per token, for architectures that fix it."""

    layer: int | None = None
    """None: as the hook says."""


@dataclass(frozen=True)
class SaeInfo(SaeRecord):
    """The same of an SAE whose weights are at hand: nothing that they tell is unknown."""

    d_in: int
    d_sae: int
    architecture: str
    sha256: str


@dataclass(frozen=True)
class Document:
    """One text, known by its content."""

    document_id: str
    """`content_id` of the text, so that a text read twice is one document."""

    text: str
    source: str
    """File or data set that it came from."""

    split: Split


@dataclass(frozen=True)
class Window:
    """A run of consecutive tokens of one document, as the subject model saw it (without its BOS)."""

    document_id: str
    start: int
    """Index of the first token within the document."""

    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    """One string per token, in order."""

    split: Split


@dataclass(frozen=True)
class Exemplar:
    """A window with one feature's activations on it."""

    feature: FeatureId
    window: Window
    activations: tuple[float, ...]
    """Raw SAE activation at each token of the window; >= 0."""

    kind: Kind
    level: int
    """Activation level of the window's maximum: 1 (weakest) .. n_levels; 0 for a window without activity."""

    def __post_init__(self) -> None:
        if len(self.window.tokens) != len(self.activations):
            raise ValueError(
                f"{self.feature}: {len(self.window.tokens)} tokens but {len(self.activations)} activations"
            )


@dataclass(frozen=True)
class ConceptPair:
    """A text that has a concept, and its twin that leaves only the concept out."""

    pair_id: str
    lang: str
    form: str
    """`statement`, `question`, `request`, `news` or `dialogue`."""

    pos: str
    neg: str


@dataclass(frozen=True)
class Concept:
    """Something a feature may stand for, with the contrastive pairs that test it."""

    concept_id: str
    """`domain.leaf.name`, or `domain.name` outside the paper's taxonomy."""

    domain: str
    leaf: str | None
    name: str
    definition: str
    pairs: tuple[ConceptPair, ...]


@dataclass(frozen=True)
class Explanation:
    """What an explainer says a feature stands for."""

    feature: FeatureId
    text: str
    tags: tuple[str, ...]
    explainer: str
    """Model and endpoint that wrote it."""

    prompt_hash: str
    """SHA-256 of the prompt template's text."""

    confidence: float | None = None
    """The explainer's own, in [0, 1]; None where it gave none."""

    stored_id: str | None = field(default=None, compare=False)
    """Its id in the store it was read from: that of an imported one is not made of the same parts."""


@dataclass(frozen=True)
class Failed:
    """A feature that could not be explained: it becomes a row, and the run goes on."""

    feature: FeatureId
    error: str
    """Class of the error."""

    message: str
    explainer: str | None = None
    """Model and endpoint that were asked; None where nobody was."""

    prompt_hash: str | None = None


@dataclass(frozen=True)
class Score:
    """How well an explanation predicts its feature on texts that the explainer never saw."""

    feature: FeatureId
    method: str
    """e.g. `"segment"`."""

    simulator: str
    """Model and endpoint that predicted."""

    value: float | None
    """Pearson correlation over all units pooled, in [-1, 1]; None with a `reason`."""

    low: float | None = None
    high: float | None = None
    """95 % bootstrap interval over windows."""

    chance: float | None = None
    """The same figure with another feature's explanation; None where none was measured."""

    auc: float | None = None
    """Probability that an active unit is rated above a silent one, in [0, 1]; None where a side has no unit."""

    balanced_accuracy: float | None = None
    """In [0, 1]; None where a side has no unit."""

    n_units: int | None = None
    n_windows: int | None = None
    reason: str | None = None
    """Why `value` is None."""

    error: str | None = None
    """Class of the error where nothing could be asked or answered: the score failed, and is not undefined."""

    tokens: int | None = None
    """LLM tokens billed for it, the chance line's left out; those of cached answers as billed then."""

    prompt_hash: str | None = None
    lookup: float | None = None
    """The same figure for a table token -> mean activation, fitted on train windows, on the same units: what can be
    had without any explanation. None where none was measured, or where it is undefined."""

    gain_low: float | None = None
    gain_high: float | None = None
    """95 % bootstrap interval over windows of `value - lookup`, both on the same resamples."""

    @property
    def beyond_lookup(self) -> Verdict | None:
        """Whether the explanation knows more than the look-up; None where no look-up was measured."""
        if self.lookup is None:
            return None
        if self.gain_low is None or self.gain_high is None or self.gain_low <= 0 <= self.gain_high:
            return "not shown"
        return "yes" if self.gain_low > 0 else "no"

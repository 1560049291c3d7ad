"""Settings of a release and of an import."""

from typing import Literal, get_args

from pydantic import Field

from safesail.domain.config import Config

Format = Literal["release", "safe-sail", "neuronpedia", "saedashboard", "delphi", "delphi-labels", "table"]
FORMATS: tuple[Format, ...] = get_args(Format)

SENSITIVITY = (
    "Explanations and exemplars describe harmful content, and exemplars quote it. "
    "Meant for people who work on the safety of language models."
)


class ReleaseOptions(Config):
    """How a release is made."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """Letters, digits, dot, dash and underscore."""

    version: str = Field(default="1", pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,49}$")
    licence: str = "other"
    """SPDX name, of the explanations and of the texts in the exemplars."""

    sensitivity: str = SENSITIVITY
    redact: tuple[str, ...] = ()
    """Domains whose explanations, tokens and exemplars are masked; scores and counts stay."""

    min_score: float | None = Field(default=None, ge=-1, le=1)
    """Leave out features whose score is lower, or undefined."""

    exemplars: int = Field(default=5, ge=0, le=100)
    """Windows a feature, strongest first; 0 for none."""

    saes: tuple[str, ...] = ()
    """Folders (patterns allowed) of SAEs that come along."""

    sae_licence: str | None = None
    """SPDX name, of SAEs whose card does not say it."""


class ColumnMap(Config):
    """Which column of a CSV or JSONL file holds what."""

    text: str = "text"
    index: str | None = "index"
    ref: str | None = None
    """Column with `.../<source>/<index>` or a Neuronpedia address, in place of `sae` and `index`."""

    sae: str | None = None
    """Column that names the SAE within its set; fills `{source}` of the options' `sae`."""

    layer: str | None = None
    lang: str | None = None
    explainer: str | None = None
    score: str | None = None
    density: str | None = None
    tags: str | None = None
    """A list, or text with `;` or `,` between the tags."""


class ImportOptions(Config):
    """How a catalog is brought in."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,99}$")
    """Stands as the origin of every row that the catalog brings."""

    model: str | None = None
    """Subject model, where the catalog does not say it."""

    sae: str | None = None
    """SAE id; may hold `{model}`, `{layer}`, `{source}` (the catalog's own name for the SAE)."""

    hook: str | None = None
    """Hook point; may hold `{layer}`."""

    source: str | None = None
    """The catalog's own `model/source` that is wanted; files about another one are left out."""

    d_in: int | None = Field(default=None, gt=0)
    d_sae: int | None = Field(default=None, gt=0)
    """Width of the SAEs: rows at or past it are refused."""

    lang: str | None = None
    explainer: str | None = None
    columns: ColumnMap = ColumnMap()

"""Settings of a training run."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from safesail.domain.config import Config
from safesail.domain.ids import layer_of

_SITES = {"hook_mlp_out": "mlp", "hook_resid_post": "res", "hook_attn_out": "att"}


class TextConfig(Config):
    """One source of training texts."""

    source: str
    """File, folder, `hf:NAME[:split]` or `-`; a relative path is taken from the working folder."""

    column: str | None = None
    """Column of the text; found by itself where not named."""

    max_tokens: PositiveInt | None = None
    """At most so many tokens of it; None takes all."""


class FamilyConfig(Config):
    """SAEs at one hook point: one for each k and width."""

    hook: str
    ks: tuple[PositiveInt, ...] = Field(min_length=1)
    """Active features per token."""

    widths: tuple[PositiveInt, ...] = (1536,)
    """Features an SAE has (d_sae)."""

    share: float = Field(default=1.0, gt=0, le=1)
    """Share of the tokens this family is trained on: less for deep hooks, which cost more of the model."""


class TrainConfig(Config):
    """What to train, on what, and how."""

    model: str
    """Alias or directory of the subject model."""

    families: tuple[FamilyConfig, ...] = Field(min_length=1)
    texts: tuple[TextConfig, ...] = Field(min_length=1)
    n_tokens: PositiveInt
    """Tokens of text, of documents in the `train` split, to train on."""

    n_ctx: PositiveInt = 128
    """Longest window, in tokens."""

    block_tokens: PositiveInt = 32_768
    """Tokens whose activations are held, shuffled and used up before the next; a killed run resumes here."""

    passes: PositiveInt = 1
    """Times each block of activations is used."""

    batch_tokens: PositiveInt = 512
    """Tokens an optimiser step sees."""

    lr: PositiveFloat = 1e-3
    warmup: float = Field(default=0.02, ge=0, lt=1)
    """Share of the run over which the learning rate rises from 0."""

    decay: float = Field(default=0.3, ge=0, lt=1)
    """Share of the run, at its end, over which it falls to 0."""

    auxk_coefficient: float = Field(default=1 / 32, ge=0)
    """Weight of the loss that revives dead features (Gao et al. 2024, section 2.4)."""

    dead_after_tokens: PositiveInt = 50_000
    """A feature that has not fired for so many tokens counts as dead."""

    eval_tokens: PositiveInt = 60_000
    """Tokens of documents in the `test` split on which the SAEs are measured."""

    eval_loss_tokens: PositiveInt = 4_096
    """Of these, tokens on which the subject model's loss with the SAE spliced in is measured."""

    storage: Literal["float32", "float16"] = "float32"
    """Precision of the two matrices on disk; they are computed with in float32 always."""

    device: str = "cpu"
    """Where the subject model and the SAEs run, as torch names it; `auto`: a GPU where there is one."""

    dtype: Literal["float32", "tf32", "bfloat16", "float16"] = "float32"
    """Number format of the subject model; the SAEs are trained in float32."""

    threads: PositiveInt | None = None
    """CPU threads; None leaves torch's choice."""

    seed: int = 0

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.batch_tokens > self.block_tokens:
            raise ValueError("batch_tokens must not exceed block_tokens")
        for family in self.families:
            if layer_of(family.hook) is None:
                raise ValueError(f"hook {family.hook!r} names no layer, e.g. blocks.14.hook_mlp_out")
            if max(family.ks) > min(family.widths):
                raise ValueError(
                    f"k = {max(family.ks)} of {family.hook} exceeds a width of {min(family.widths)}"
                )
        if len({family.hook for family in self.families}) < len(self.families):
            raise ValueError("two families have one hook; list all its ks and widths in one")
        names = [plan.sae_id for plan in self.plans()]
        if len(set(names)) != len(names):
            raise ValueError("two SAEs would get one name; list each k and width once")
        return self

    def plans(self) -> tuple["SaePlan", ...]:
        """The SAEs this run trains, in order."""
        return tuple(
            SaePlan(sae_id=_sae_id(self.model, family, k, width), hook=family.hook, k=k, d_sae=width)
            for family in self.families
            for width in family.widths
            for k in family.ks
        )


class SaePlan(Config):
    """One SAE to train."""

    sae_id: str
    hook: str
    k: PositiveInt
    d_sae: PositiveInt


def _sae_id(model: str, family: FamilyConfig, k: int, width: int) -> str:
    """E.g. `smollm2-l14-mlp-k32`; the width is named where a family has several."""
    site = _SITES.get(family.hook.rsplit(".", 1)[-1], family.hook.rsplit(".", 1)[-1])
    size = f"-d{width}" if len(family.widths) > 1 else ""
    return f"{Path(model).name}-l{layer_of(family.hook)}-{site}{size}-k{k}"

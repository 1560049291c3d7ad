"""What every subject model can do, whatever runs it: text to tokens, tokens to activations and logits, with edits."""

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor

from safesail.domain.records import LoadedSubject
from safesail.errors import ConfigError

Edit = Callable[[Tensor, Tensor], Tensor]
"""(activations [batch, pos, d], float32; positions [batch, pos]) -> activations of the same shape.

A position counts tokens of the row from 0 on; -1 marks padding, where what the edit gives is ignored.
"""


Target = Callable[[Mapping[str, Tensor], Tensor], Tensor]
"""(activations by hook, [batch, pos, d]; logits [batch, pos and next, vocabulary]) -> a number, differentiable."""


@dataclass(frozen=True)
class Intervention:
    """An edit of the activations at one hook. Special tokens (BOS, [CLS], [SEP]) are never edited."""

    hook: str
    edit: Edit


@dataclass(frozen=True)
class ModelInputs:
    """Rows as the model reads them, with its special tokens, on its device."""

    ids: Int[Tensor, "batch all_pos"]
    mask: Bool[Tensor, "batch all_pos"]
    """What is attended to: False on padding."""

    text: slice
    """Where the rows' own tokens lie on the second axis, padding included."""

    text_mask: Bool[Tensor, "batch pos"] | None
    """False on padding, of the rows' own tokens; None: no padding."""

    n_before: int = 0
    """Tokens of each row before these, which the model has in a cache."""

    def repeat(self, n: int) -> "ModelInputs":
        """All rows, `n` times one after the other."""
        text_mask = None if self.text_mask is None else self.text_mask.repeat(n, 1)
        return ModelInputs(self.ids.repeat(n, 1), self.mask.repeat(n, 1), self.text, text_mask, self.n_before)


@dataclass(frozen=True)
class ResidualState:
    """A run stopped after a block: what the blocks behind it need to go on."""

    block: int
    residual: Float[Tensor, "batch all_pos d_model"]
    """The block's output at every position, special tokens included, in the model's dtype; with a cache, at those
    that are not in it."""

    inputs: ModelInputs
    cache: Any = None
    """Keys and values of each row's first tokens, at all blocks; None: the whole rows are run again."""

    def repeat(self, n: int) -> "ResidualState":
        """All rows, `n` times one after the other, so that as many edits of them are run at once."""
        return ResidualState(self.block, self.residual.repeat(n, 1, 1), self.inputs.repeat(n), self.cache)


@dataclass(frozen=True)
class SubjectOutput:
    """What one run gave."""

    activations: Mapping[str, Tensor]
    """By hook, float32 [batch, pos, d]; special tokens left out, 0 on padding. Edits at the hook are in it."""

    logits: Float[Tensor, "batch pos_and_next vocabulary"] | None
    """[:, i] predicts token i of the row from those before it; the last one predicts what follows the row."""

    state: ResidualState | None
    """Where `keep_block` asked for it."""

    text_mask: Bool[Tensor, "batch pos"] | None = None
    """False on padding, on the model's device; None: no padding."""


@runtime_checkable
class Subject(Protocol):
    """A model whose activations are studied: never trained, run without gradients, any number of threads at once."""

    @property
    def info(self) -> LoadedSubject:
        """Identity and sizes."""
        ...

    @property
    def device(self) -> str:
        """Where it runs, as torch names it."""
        ...

    @property
    def hooks(self) -> Iterable[str]:
        """Names of all hooks."""
        ...

    @property
    def n_ctx_max(self) -> int:
        """Longest row in tokens, special tokens not counted."""
        ...

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer."""
        ...

    @property
    def prefix(self) -> tuple[int, ...]:
        """Special tokens that `run` puts before each row: a causal model's attention sink, an encoder's [CLS]."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """Token ids of `text`, no special token added."""
        ...

    def token_strings(self, ids: Sequence[int]) -> tuple[str, ...]:
        r"""One readable string per token; joined they give the text, broken characters as `\xe4`."""
        ...

    def check_hook(self, hook: str) -> None:
        """Raises ConfigError, naming near names, where this model has no such hook point."""
        ...

    def run(  # noqa: PLR0913  each is one thing asked of the same pass
        self,
        rows: Int[Tensor, "batch pos"],
        *,
        capture: Sequence[str] = (),
        interventions: Sequence[Intervention] = (),
        attention_mask: Int[Tensor, "batch pos"] | None = None,
        logits: bool = False,
        keep_block: int | None = None,
        keep_prefix: int = 0,
    ) -> SubjectOutput:
        """One forward pass, which ends once all that is asked for has been seen.

        Args:
            rows: Token ids without special tokens, padded on the right.
            capture: Hooks whose activations are wanted.
            interventions: Edits; those at one hook are made in order.
            attention_mask: 1 = token, 0 = padding; None: no padding.
            logits: Also run the language head.
            keep_block: Block after which the residual is kept for `resume`.
            keep_prefix: With it: so many first tokens of each row will never be edited, so their keys and values
                are kept and `resume` computes only the tokens after them. Rows must then have one length.

        Raises:
            ConfigError: a hook that this model does not have.
            SubjectError: logits of a model without a language head, or a prefix that this model does not keep.
            ValueError: padding on the left, or rows longer than `n_ctx_max`.
        """
        ...

    def resume(
        self,
        state: ResidualState,
        *,
        capture: Sequence[str] = (),
        interventions: Sequence[Intervention] = (),
        logits: bool = False,
    ) -> SubjectOutput:
        """Run on from a kept residual: exactly what the whole pass gives, without the blocks up to the kept one.

        With a kept prefix it gives the tokens after that alone, equal but for rounding, and no logits.

        Raises:
            ConfigError: a hook that lies before the kept residual, or that this model does not have.
            SubjectError: this model's later blocks need more than the residual.
        """
        ...

    def differentiate(
        self, rows: Int[Tensor, "batch pos"], hooks: Sequence[str], target: Target
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Activations at some hooks, and the gradient of a target by them, in one forward and one backward pass.

        Args:
            rows: Token ids without special tokens, of one length.
            hooks: Where; what lies before the first of them is not differentiated.
            target: What is differentiated.

        Returns:
            By hook, float32 [batch, pos, d]; the gradient at a hook that the target does not depend on is 0.

        Raises:
            ConfigError: a hook that this model does not have.
            SubjectError: a model without a language head, or a hook inside a module.
        """
        ...

    def generate(
        self,
        rows: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        interventions: Sequence[Intervention] = (),
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[list[int]]:
        """New token ids per row, up to and without the model's end token; the edits act on every token.

        Args:
            rows: Prompts without special tokens, of any lengths.
            max_tokens: Most new tokens per row.
            interventions: As in `run`.
            temperature: 0 takes the likeliest token.
            seed: Of the draws, where the temperature is above 0.

        Raises:
            ConfigError: a hook that this model does not have.
            SubjectError: a model without a language head, or a hook inside a module.
        """
        ...


def unknown_hook(model_id: str, hook: str, known: Collection[str]) -> ConfigError:
    """The error for a hook that a model does not have, naming near names."""
    near = difflib.get_close_matches(hook, sorted(known), n=3)
    return ConfigError(f"{model_id} has no hook {hook!r}; near names: {', '.join(near) or 'none'}")

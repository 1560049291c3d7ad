"""A transformers model as a subject: its tokens, its rows with special tokens, its hooks. Knows nothing of SAEs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from safesail.domain.records import LoadedSubject
from safesail.errors import SubjectError
from safesail.subject.device import to_device
from safesail.subject.hooked import HookedModel, PassRequest
from safesail.subject.protocol import (
    Intervention,
    ModelInputs,
    ResidualState,
    SubjectOutput,
    Target,
    unknown_hook,
)
from safesail.subject.tokens import TokenSpeller


@dataclass(frozen=True)
class SpecialTokens:
    """What stands round every row."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...] = ()
    padding: int = 0


class TransformerSubject:
    """What causal models and text encoders share; see `Subject`."""

    def __init__(
        self,
        model: HookedModel,
        tokenizer: PreTrainedTokenizerBase,
        info: LoadedSubject,
        special: SpecialTokens,
        n_ctx: int,
    ) -> None:
        """`n_ctx` counts special tokens."""
        self.info = info
        self.tokenizer = tokenizer
        self.prefix = special.prefix
        self.n_ctx_max = n_ctx - len(special.prefix) - len(special.suffix)
        self._model = model
        self._n_vocabulary = model.n_vocabulary
        self._special = special
        self._speller = TokenSpeller.of(tokenizer)

    @property
    def device(self) -> str:
        """Where the model runs, as torch names it."""
        return str(next(self._model.model.parameters()).device)

    @property
    def hooks(self) -> Iterable[str]:
        """Names of all hooks."""
        return self._model.boundaries.keys()

    def tokenize(self, text: str) -> list[int]:
        """Token ids of `text`, no special token added."""
        return list(self.tokenizer.encode(text, add_special_tokens=False, verbose=False))

    def token_strings(self, ids: Sequence[int]) -> tuple[str, ...]:
        r"""One readable string per token; joined they give the text, broken characters as `\xe4`."""
        return tuple(self._speller.spell(int(i)) for i in ids)

    def check_hook(self, hook: str) -> None:
        """Raises ConfigError, naming near names, where this model has no such hook point."""
        if hook not in self.hooks:
            raise unknown_hook(self.info.model_id, hook, list(self.hooks))

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
        """One forward pass; see `Subject.run`."""
        inputs = self._inputs(rows, attention_mask)
        if keep_prefix and (keep_block is None or inputs.text_mask is not None or not self._has_head):
            raise ValueError("a prefix is kept with a block, of rows of one length, of a causal model")
        request = PassRequest(
            tuple(capture), tuple(interventions), logits, keep_block, keep_prefix=keep_prefix
        )
        return self._run(inputs, request)

    def resume(
        self,
        state: ResidualState,
        *,
        capture: Sequence[str] = (),
        interventions: Sequence[Intervention] = (),
        logits: bool = False,
    ) -> SubjectOutput:
        """Run on from a kept residual; see `Subject.resume`."""
        return self._run(state.inputs, PassRequest(tuple(capture), tuple(interventions), logits, None, state))

    def differentiate(
        self, rows: Int[Tensor, "batch pos"], hooks: Sequence[str], target: Target
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Always a `SubjectError` where the model has no language head; see `Subject.differentiate`."""
        raise self._no_head()

    def generate(
        self,
        rows: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        interventions: Sequence[Intervention] = (),
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[list[int]]:
        """Always a `SubjectError` where the model has no language head; see `Subject.generate`."""
        raise self._no_head()

    def _run(self, inputs: ModelInputs, request: PassRequest) -> SubjectOutput:
        for hook in request.hooks:
            self.check_hook(hook)
        if request.logits and not self._has_head:
            raise self._no_head()
        return self._model.run(inputs, request)

    _has_head = False

    def _no_head(self) -> SubjectError:
        return SubjectError(
            f"{self.info.model_id} is a text encoder: it has no language head, so no logits or text"
        )

    def _inputs(self, rows: Tensor, mask: Tensor | None) -> ModelInputs:
        """Rows with special tokens round them, and how long they are, moved to the model's device in one transfer."""
        rows = rows.cpu()
        n_rows, n_pos = rows.shape
        if n_pos > self.n_ctx_max:
            raise ValueError(f"rows of {n_pos} tokens; {self.info.model_id} takes {self.n_ctx_max}")
        if mask is not None and bool((mask[:, 1:] > mask[:, :-1]).any()):
            raise ValueError("padding must be on the right of each row")
        if n_pos and int(rows.max()) >= self._n_vocabulary:
            raise SubjectError(
                f"{self.info.model_id} knows {self._n_vocabulary} tokens, its tokenizer gives number "
                f"{int(rows.max())}: the tokenizer belongs to another model"
            )
        lengths = torch.full((n_rows,), n_pos) if mask is None else mask.to("cpu", torch.long).sum(dim=1)
        first, last = len(self._special.prefix), len(self._special.suffix)
        ids = torch.full((n_rows, first + n_pos + last), self._special.padding, dtype=torch.long)
        ids[:, :first] = torch.tensor(self._special.prefix, dtype=torch.long)
        ids[:, first : first + n_pos] = rows
        for i, token in enumerate(self._special.suffix):
            ids[torch.arange(n_rows), first + lengths + i] = token
        sent = to_device(torch.cat([ids, lengths[:, None]], dim=1), self.device)
        ids, ends = sent[:, :-1], sent[:, -1:]
        position = torch.arange(ids.shape[1], device=sent.device)
        padded = bool((lengths < n_pos).any())
        return ModelInputs(
            ids,
            position < ends + first + last,
            slice(first, first + n_pos),
            position[:n_pos] < ends if padded else None,
        )

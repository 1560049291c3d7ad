"""Causal language models as subjects: transformers runs them, TransformerLens names their hooks."""

import copy
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from safesail.domain.records import LoadedSubject
from safesail.errors import ConfigError, SubjectError
from safesail.subject.hooked import AllSeen, ForwardPass, HookedModel, ModuleBoundary, PassRequest
from safesail.subject.model import SpecialTokens, TransformerSubject
from safesail.subject.protocol import Intervention, ModelInputs, SubjectOutput, Target

PROBE_TOKENS = 16
"""Tokens on which a hook of the plain model is compared with the bridge's before it is used."""

PROBE_TOLERANCE = {True: 1e-3, False: 0.1}
"""Largest difference that is rounding, as a share of the norm, by whether the model is float32; another point in the
model differs by about 1."""

_log = logging.getLogger(__name__)


class CausalModel(TransformerSubject):
    """A language model in which each token sees those before it."""

    _has_head = True

    def __init__(
        self,
        model: HookedModel,
        bridge: TransformerBridge,
        tokenizer: PreTrainedTokenizerBase,
        info: LoadedSubject,
    ) -> None:
        # Position 0 is an attention sink, whose activations describe no text: a token that is no text stands there.
        super().__init__(model, tokenizer, info, SpecialTokens((_sink_id(tokenizer),)), int(bridge.cfg.n_ctx))
        self._bridge = bridge
        self._hooks = frozenset(bridge.hook_dict)
        self._agrees: dict[str, bool] = {}
        """Whether the plain model gives what the bridge gives, by hook, where that was asked."""
        self._one_at_a_time = threading.Lock()
        """Held while the bridge runs: its hooks are the same for all threads."""

    @classmethod
    def load(
        cls, path: Path, tokenizer: PreTrainedTokenizerBase, name: str, sha256: str, options: dict[str, Any]
    ) -> "CausalModel":
        """Load a Hugging Face directory; `options` go to transformers, `device` among them."""
        device, dtype = torch.device(options.pop("device")), str(options.pop("number_format"))
        whole = AutoModelForCausalLM.from_pretrained(path, **options)
        nn.Module.to(whole, device)
        taken_apart, modules = twin(whole)
        taken_apart.set_attn_implementation("eager")  # the bridge's hooks inside attention need its steps
        bridge = TransformerBridge.boot_transformers(
            str(path), device=device, dtype=options["dtype"], tokenizer=tokenizer, hf_model=taken_apart,
            trust_remote_code=False,
        )  # fmt: skip
        info = LoadedSubject(
            name, fingerprint=sha256, d_model=int(bridge.cfg.d_model), n_layers=int(bridge.cfg.n_layers), dtype=dtype,
        )  # fmt: skip
        return cls(
            HookedModel(whole, boundaries(bridge, modules), info.n_layers, causal=True),
            bridge,
            tokenizer,
            info,
        )

    @property
    def hooks(self) -> Iterable[str]:
        """Names of all hooks: TransformerLens' own."""
        return self._hooks

    def generate(
        self,
        rows: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        interventions: Sequence[Intervention] = (),
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[list[int]]:
        """New token ids per row; see `Subject.generate`."""
        self._check_boundaries([i.hook for i in interventions], "generation cannot be edited there")
        drawing = torch.Generator().manual_seed(seed)

        def choose(logits: Tensor) -> Tensor:
            if temperature == 0:
                return logits.argmax(dim=-1)
            chances = torch.softmax(logits.float().cpu() / temperature, dim=-1)
            return torch.multinomial(chances, 1, generator=drawing)[:, 0].to(logits.device)

        new: dict[int, list[int]] = {}
        for length in sorted({len(row) for row in rows}):  # rows of one length need no padding
            same_length = [i for i, row in enumerate(rows) if len(row) == length]
            inputs = self._inputs(torch.tensor([list(rows[i]) for i in same_length], dtype=torch.long), None)
            continued = self._model.generate(inputs, interventions, choose, max_tokens, self._end_tokens)
            new |= dict(zip(same_length, continued, strict=True))
        return [new[i] for i in range(len(rows))]

    def differentiate(
        self, rows: Int[Tensor, "batch pos"], hooks: Sequence[str], target: Target
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Activations and gradients; see `Subject.differentiate`."""
        self._check_boundaries(hooks, "there is no gradient there")
        return self._model.differentiate(self._inputs(rows, None), hooks, target)

    def _check_boundaries(self, hooks: Iterable[str], consequence: str) -> None:
        for hook in hooks:
            self.check_hook(hook)
            if not self._plain_gives(hook):
                raise SubjectError(f"{hook} lies inside a module: {consequence}")

    @property
    def _end_tokens(self) -> frozenset[int]:
        config: Any = self._model.model.generation_config
        ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        return frozenset(i for i in (*ends, self.tokenizer.eos_token_id) if isinstance(i, int))

    def _run(self, inputs: ModelInputs, request: PassRequest) -> SubjectOutput:
        for hook in request.hooks:
            self.check_hook(hook)
        if all(self._plain_gives(hook) for hook in request.hooks):
            return self._model.run(inputs, request)
        if request.start is not None or request.keep_block is not None:
            raise SubjectError(
                f"{', '.join(request.hooks)}: a hook inside a module; no residual can be kept there"
            )
        return self._bridge_run(inputs, request)

    def _plain_gives(self, hook: str) -> bool:
        """Whether the plain model gives at `hook` what the bridge gives; found out once, on a few tokens."""
        if hook not in self._agrees:
            self._agrees[hook] = hook in self._model.boundaries and self._agree(hook)
            if not self._agrees[hook]:
                _log.warning(
                    "%s is not at a module's boundary: every run there is several times slower", hook
                )
        return self._agrees[hook]

    def _agree(self, hook: str) -> bool:
        ids = torch.arange(min(PROBE_TOKENS, self.n_ctx_max)) % int(self._bridge.cfg.d_vocab)
        inputs, request = self._inputs(ids[None], None), PassRequest((hook,))
        try:
            plain = self._model.run(inputs, request).activations[hook]
            bridge = self._bridge_run(inputs, request).activations[hook]
        except ConfigError:  # one of them never comes past it
            return False
        if plain.shape != bridge.shape:
            return False
        tolerance = PROBE_TOLERANCE[self._bridge.cfg.dtype == torch.float32]
        return bool((plain - bridge).norm() <= tolerance * bridge.norm())

    @torch.no_grad()  # as in HookedModel
    def _bridge_run(self, inputs: ModelInputs, request: PassRequest) -> SubjectOutput:
        done, logits = ForwardPass(inputs, request, str), None

        def at(name: str) -> Callable[[Tensor, Any], Tensor | None]:
            return lambda activations, hook: done.visit(name, activations)

        hooks: list[tuple[Any, Any]] = [(str(point), at(str(point))) for point in done.points]
        with self._one_at_a_time, suppress(AllSeen):
            # The bridge removes these hooks on the way out, whatever happened.
            returned = "logits" if request.logits else None
            logits = self._bridge.run_with_hooks(inputs.ids, return_type=returned, fwd_hooks=hooks)
        return done.output(logits)


def twin(model: PreTrainedModel) -> tuple[PreTrainedModel, dict[nn.Module, nn.Module]]:
    """The model once more, in other modules over the same weights, and which module of `model` each of them is.

    A bridge takes the model that it is given apart; the other one stays whole.
    """
    weights = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    other = copy.deepcopy(model, weights)
    return other, dict(zip(other.modules(), model.modules(), strict=True))


def boundaries(
    bridge: TransformerBridge, modules: Mapping[nn.Module, nn.Module]
) -> dict[str, ModuleBoundary]:
    """Module boundaries by the bridge's names of hooks, aliases among them; what lies inside a module has none.

    Args:
        bridge: The bridge.
        modules: Of every module that the bridge was made of, the one whose boundary is wanted.
    """
    by_point: dict[int, ModuleBoundary] = {}
    for part in bridge.modules():
        if not isinstance(part, GeneralizedComponent) or part.original_component is None:
            continue
        module = modules.get(part.original_component)
        if module is not None:
            by_point[id(part.hook_in)] = ModuleBoundary(module, "in")
            by_point[id(part.hook_out)] = ModuleBoundary(module, "out")
    return {name: by_point[id(point)] for name, point in bridge.hook_dict.items() if id(point) in by_point}


def _sink_id(tokenizer: PreTrainedTokenizerBase) -> int:
    for token_id in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if isinstance(token_id, int):
            return token_id
    raise SubjectError(
        "the tokenizer names neither a BOS nor an EOS token, one of which must start every row"
    )

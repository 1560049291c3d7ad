"""A transformers model as it is, its activations read and edited where its modules begin and end.

TransformerLens computes attention step by step, so that there are hooks inside it. Hooks at the boundaries of modules
(the residual stream, outputs of attention and of MLPs) need none of that: here fused attention runs, and threads may
run batches at once. Names of hooks are those of TransformerLens.
"""

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from safesail.errors import ConfigError, SubjectError
from safesail.subject.protocol import Edit, Intervention, ModelInputs, ResidualState, SubjectOutput, Target


class AllSeen(Exception):
    """Everything wanted has been seen: the rest of the forward pass is not needed."""


@dataclass(frozen=True)
class ModuleBoundary:
    """Where in the model a hook lies."""

    module: nn.Module
    side: Literal["in", "out"]


@dataclass(frozen=True)
class PassRequest:
    """What one forward pass is to give."""

    capture: tuple[str, ...] = ()
    interventions: tuple[Intervention, ...] = ()
    logits: bool = False
    keep_block: int | None = None
    start: ResidualState | None = None
    keep_prefix: int = 0
    gradients: bool = False
    """What is captured is the tensors themselves, all positions, for a backward pass."""

    @property
    def hooks(self) -> tuple[str, ...]:
        """Every hook named, each once."""
        return tuple(dict.fromkeys([*self.capture, *(i.hook for i in self.interventions)]))


@dataclass
class ForwardPass:
    """One forward pass under way: what is read and edited, by the point where that happens."""

    inputs: ModelInputs
    request: PassRequest
    point_of: Callable[[str], Hashable]
    keep_point: Hashable = None
    """Where `keep_block` ends."""

    captures: dict[Hashable, list[str]] = field(init=False, default_factory=dict)
    edits: dict[Hashable, list[Edit]] = field(init=False, default_factory=dict)
    seen: dict[str, Tensor] = field(init=False, default_factory=dict)
    residual: Tensor | None = field(init=False, default=None)
    cache: DynamicCache | None = field(init=False, default=None)
    rest: ModelInputs | None = field(init=False, default=None)
    """What a kept prefix leaves to be run."""

    text: slice = field(init=False)
    """Where the rows' own tokens lie in what the model reads now."""

    positions: Tensor | None = field(init=False, default=None)
    """As an `Edit` takes them; None without interventions."""

    def __post_init__(self) -> None:
        for hook in dict.fromkeys(self.request.capture):
            self.captures.setdefault(self.point_of(hook), []).append(hook)
        for intervention in self.request.interventions:
            self.edits.setdefault(self.point_of(intervention.hook), []).append(intervention.edit)
        self.text = self.inputs.text
        if self.edits:
            n, device = self.text.stop - self.text.start, self.inputs.ids.device
            positions = torch.arange(n, device=device).add(self.inputs.n_before)
            positions = positions.expand(len(self.inputs.ids), n)
            keep = self.inputs.text_mask
            self.positions = positions if keep is None else positions.masked_fill(~keep, -1)

    @property
    def points(self) -> set[Hashable]:
        """Every point to visit."""
        kept = () if self.keep_point is None else (self.keep_point,)
        return {*self.captures, *self.edits, *kept}

    def step(self, past: int) -> None:
        """From now on the model reads one new token per row, of rows that hold `past` tokens."""
        self.text = slice(0, 1)
        if self.positions is not None:
            self.positions = self.positions.new_full((len(self.positions), 1), past)

    def visit(self, point: Hashable, activations: Any) -> Tensor | None:
        """Edit and read what lies at a point; the edited activations, or None where nothing changed.

        Raises:
            AllSeen: the rest of the pass is not needed.
        """
        if not isinstance(activations, Tensor):
            return None
        edited = None
        for edit in self.edits.get(point, ()):
            activations = edited = self._apply(edit, activations)
        if self.request.gradients and point in self.captures:
            if not activations.requires_grad:  # the first hook: what lies before it needs no graph
                activations = edited = activations.detach().requires_grad_()
            self.seen |= dict.fromkeys(self.captures[point], activations)
            return edited
        for hook in self.captures.get(point, ()):
            # Copied: later layers may write into the tensor.
            copied = activations[:, self.text].to(torch.float32, copy=True)
            keep = self.inputs.text_mask
            self.seen[hook] = copied if keep is None else copied.masked_fill_(~keep.unsqueeze(-1), 0)
        if point == self.keep_point:
            self.residual = activations.clone()
        self.stop_if_done()
        return edited

    def stop_if_done(self) -> None:
        """Raises AllSeen once all that was wanted is there."""
        everything = len(self.seen) == len(set(self.request.capture))
        kept = self.keep_point is None or self.residual is not None
        if everything and kept and not self.request.logits and not self.request.keep_prefix:
            raise AllSeen

    def keep(self, cache: Any) -> None:
        """Cut a whole pass' cache, and what was kept of the residual, where the prefix ends.

        Raises:
            SubjectError: a model that keeps something else than the keys and values of every token.
        """
        assert self.residual is not None
        if not isinstance(cache, DynamicCache) or any(
            getattr(layer, "is_sliding", True) for layer in cache.layers
        ):
            raise SubjectError("this model keeps more, or less, than keys and values: run its rows whole")
        first = self.inputs.text.start + self.request.keep_prefix
        cache.crop(first - self.inputs.ids.shape[1])
        rest = self.inputs.ids[:, first:]
        self.cache = cache
        self.residual = self.residual[:, first:].clone()
        self.rest = ModelInputs(
            rest,
            torch.ones_like(rest, dtype=torch.bool),
            slice(0, rest.shape[1]),
            None,
            self.request.keep_prefix,
        )

    def output(self, logits: Tensor | None) -> SubjectOutput:
        """What was found.

        Raises:
            ConfigError: the model never came past a hook.
        """
        if missing := set(self.request.capture) - set(self.seen):
            raise ConfigError(f"the model gives nothing at {', '.join(sorted(missing))}; name another hook")
        state = None
        if self.request.keep_block is not None and self.residual is not None:
            state = ResidualState(
                self.request.keep_block, self.residual, self.rest or self.inputs, self.cache
            )
        return SubjectOutput(
            {hook: self.seen[hook] for hook in self.request.capture},
            None if logits is None else logits[:, max(0, self.inputs.text.start - 1) :],
            state,
            self.inputs.text_mask,
        )

    def _apply(self, edit: Edit, activations: Tensor) -> Tensor:
        """Only the rows' own tokens take the edit's result; what it leaves alone stays as it is, bit for bit."""
        assert self.positions is not None
        old = activations[:, self.text]
        # A copy, so that an edit that writes into what it is given changes padding and special tokens neither.
        new = edit(old.to(torch.float32, copy=True), self.positions).to(old)
        if new.shape != old.shape:
            raise ValueError(f"an edit made {list(old.shape)} to {list(new.shape)}")
        edited = activations.clone()
        at_text = (self.positions >= 0).reshape(*self.positions.shape, *[1] * (old.ndim - 2))
        edited[:, self.text] = torch.where(at_text, new, old)
        return edited


class HookedModel:
    """Forward passes that end at the deepest activation request. Threads may run them at once."""

    def __init__(
        self,
        model: PreTrainedModel,
        boundaries: Mapping[str, ModuleBoundary],
        n_blocks: int,
        *,
        causal: bool,
    ) -> None:
        """`n_blocks` is the number of transformer blocks; a model that is not causal is told what is padding."""
        self.boundaries = boundaries
        self.model = model.eval().requires_grad_(False)
        embeddings: Any = model.get_input_embeddings()
        self.n_vocabulary = int(embeddings.weight.shape[0])
        self._causal = causal
        self._watched: set[ModuleBoundary] = set()
        self._watching = threading.Lock()
        self._local = threading.local()
        self._resumable: dict[int, bool] = {}
        self._past: dict[int, frozenset[nn.Module]] = {}
        self.blocks = blocks_of(model, n_blocks)
        for number, block in enumerate(self.blocks):
            self._make_skippable(number, block)

    def run(self, inputs: ModelInputs, request: PassRequest) -> SubjectOutput:
        """One pass; see `Subject.run`."""
        if request.start is not None:
            self._check_resume(request.start, request.hooks)
        return self._run(inputs, request)

    def _run(self, inputs: ModelInputs, request: PassRequest) -> SubjectOutput:
        done, logits = self._begin(inputs, request), None
        with suppress(AllSeen):
            done.stop_if_done()
            given = self._forward(done, inputs.ids, **_cached(request))
            logits = given.logits if request.logits else None
            if request.keep_prefix:
                done.keep(given.past_key_values)
        return done.output(logits)

    def _begin(self, inputs: ModelInputs, request: PassRequest) -> ForwardPass:
        block = request.keep_block
        if block is not None and not 0 <= block < len(self.blocks):
            raise ConfigError(
                f"no block {block} to keep the residual after; the model has {len(self.blocks)}"
            )
        keep = None if block is None else ModuleBoundary(self.blocks[block], "out")
        return ForwardPass(inputs, request, self.boundaries.__getitem__, keep)

    def differentiate(
        self, inputs: ModelInputs, hooks: Sequence[str], target: Target
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One forward and one backward pass; see `Subject.differentiate`."""
        done = self._begin(inputs, PassRequest(capture=tuple(hooks), logits=True, gradients=True))
        with torch.enable_grad():
            logits = self._forward(done, inputs.ids, use_cache=False).logits
            value = target(
                {hook: x[:, inputs.text].float() for hook, x in done.seen.items()},
                logits[:, max(0, inputs.text.start - 1) :],
            )
            # None where the target does not depend on it, whatever the stubs say.
            slopes = cast(
                "Sequence[Tensor | None]",
                torch.autograd.grad(value, list(done.seen.values()), allow_unused=True),
            )
        at_text = {hook: x.detach()[:, inputs.text].float() for hook, x in done.seen.items()}
        return at_text, {
            hook: torch.zeros_like(at_text[hook]) if g is None else g[:, inputs.text].float()
            for hook, g in zip(done.seen, slopes, strict=True)
        }

    def generate(
        self, inputs: ModelInputs, interventions: Sequence[Intervention], choose: Callable[[Tensor], Tensor],
        max_tokens: int, stop: frozenset[int],
    ) -> list[list[int]]:  # fmt: skip
        """New ids of rows of one length; `choose` takes logits [batch, vocabulary] to ids [batch]."""
        done = self._begin(inputs, PassRequest(interventions=tuple(interventions), logits=True))
        new: list[list[int]] = [[] for _ in inputs.ids]
        going = set(range(len(new)))
        ids, cache = inputs.ids, None
        for step in range(max_tokens):
            if step:
                done.step(inputs.text.stop - inputs.text.start + step - 1)
            out = self._forward(done, ids, use_cache=True, past_key_values=cache)
            ids, cache = choose(out.logits[:, -1])[:, None], out.past_key_values
            for row, token in enumerate(ids[:, 0].tolist()):
                if row in going and token in stop:
                    going.discard(row)
                if row in going:
                    new[row].append(token)
            if not going:
                break
        return new

    def _forward(self, done: ForwardPass, ids: Int[Tensor, "batch all_pos"], **options: Any) -> Any:
        self._watch(done)
        if not self._causal:  # a causal model cannot see padding on the right, and is quicker without a mask
            options = {"attention_mask": done.inputs.mask.long()}
        self._local.current = done
        try:
            # Not inference_mode: its tensors cannot take part in an SAE's training.
            with torch.set_grad_enabled(done.request.gradients):
                return self.model(ids, **options)
        finally:
            del self._local.current

    def _watch(self, done: ForwardPass) -> None:
        """Register at the boundaries never wanted before; that stays there, and does nothing unless wanted."""
        with self._watching:
            for boundary in done.points - self._watched:
                assert isinstance(boundary, ModuleBoundary)
                self._register(boundary)
                self._watched.add(boundary)

    def _register(self, boundary: ModuleBoundary) -> None:
        def at_input(_: nn.Module, args: Any, kwargs: Any) -> Any:
            name = None if args else next(iter(kwargs))
            edited = self._visit(boundary, args[0] if name is None else kwargs[name])
            if edited is None:
                return None
            return ((edited, *args[1:]), kwargs) if name is None else (args, {**kwargs, name: edited})

        def at_output(_: nn.Module, args: Any, output: Any) -> Any:
            first = output if isinstance(output, Tensor) else output[0]
            edited = self._visit(boundary, first)
            return edited if edited is None or isinstance(output, Tensor) else (edited, *output[1:])

        if boundary.side == "in":
            boundary.module.register_forward_pre_hook(at_input, with_kwargs=True)
        else:
            boundary.module.register_forward_hook(at_output)

    def _visit(self, boundary: ModuleBoundary, activations: Any) -> Tensor | None:
        current: ForwardPass | None = getattr(self._local, "current", None)
        if current is None or boundary not in current.points:
            return None
        return current.visit(boundary, activations)

    def _make_skippable(self, number: int, block: nn.Module) -> None:
        forward = block.forward

        def skippable(*args: Any, **kwargs: Any) -> Any:
            current: ForwardPass | None = getattr(self._local, "current", None)
            start = None if current is None else current.request.start
            if start is not None and number <= start.block:
                return start.residual.clone()
            output = forward(*args, **kwargs)
            if not isinstance(output, Tensor):
                self._resumable[number] = False  # what else the block gives is not in a `ResidualState`
            return output

        block.forward = skippable

    def _check_resume(self, start: ResidualState, hooks: Sequence[str]) -> None:
        past = self._modules_of(start.block)
        end = ModuleBoundary(self.blocks[start.block], "out")
        for hook in hooks:
            boundary = self.boundaries[hook]
            embedding = "embed" in hook and "unembed" not in hook
            if boundary != end and (boundary.module in past or embedding):
                raise ConfigError(f"{hook} lies before the residual kept after block {start.block}")
        if start.block not in self._resumable:
            self._resumable[start.block] = self._resumes(start)
        if not self._resumable[start.block]:
            raise SubjectError(
                f"blocks after {start.block} of this model need more than the residual: run it from the start"
            )

    def _modules_of(self, block: int) -> frozenset[nn.Module]:
        """Every module of the blocks up to this one."""
        if block not in self._past:
            self._past[block] = frozenset(m for b in self.blocks[: block + 1] for m in b.modules())
        return self._past[block]

    def _resumes(self, start: ResidualState) -> bool:
        """Whether going on after a block gives what the whole pass gives; tried once per block, on one row."""
        ids = start.inputs.ids[:1]
        row = ModelInputs(ids, torch.ones_like(ids, dtype=torch.bool), slice(0, ids.shape[1]), None)
        last = len(self.blocks) - 1
        whole = self._run(row, PassRequest(keep_block=last)).state
        kept = self._run(row, PassRequest(keep_block=start.block)).state
        again = self._run(row, PassRequest(keep_block=last, start=kept)).state
        return whole is not None and again is not None and torch.equal(whole.residual, again.residual)


def _cached(request: PassRequest) -> dict[str, Any]:
    """How the model is told of keys and values that it has, or is to keep."""
    start = request.start
    if start is not None and start.cache is not None:
        return {"use_cache": True, "past_key_values": _filled(start)}
    if request.keep_prefix:
        return {"use_cache": True, "logits_to_keep": 1}
    return {"use_cache": False}


def _filled(start: ResidualState) -> DynamicCache:
    """A cache of the pass' own, which it writes to, with a copy of the kept rows for each copy of the residual's."""
    cache, n = DynamicCache(), len(start.residual) // len(start.cache.layers[0].keys)
    for number, layer in enumerate(start.cache.layers):
        # Blocks that are skipped read nothing; the first one tells how many tokens there are.
        rows = 0 if 0 < number <= start.block else len(layer.keys)
        cache.update(layer.keys[:rows].repeat(n, 1, 1, 1), layer.values[:rows].repeat(n, 1, 1, 1), number)
    return cache


def blocks_of(model: nn.Module, n_blocks: int) -> list[nn.Module]:
    """The transformer blocks in order; none where the model does not keep them in one list."""
    for module in model.modules():  # outer modules come first
        if isinstance(module, nn.ModuleList) and len(module) == n_blocks:
            return list(module)
    return []

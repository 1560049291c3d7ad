"""The subject model as transformers runs it, activations taken where its modules begin and end.

TransformerLens computes attention step by step, so that there are hooks inside it. Hooks at the edges of modules (the
residual stream, outputs of attention and of MLPs) need none of that: here fused attention runs, and threads may run
batches at once. Names of hooks stay those of TransformerLens, whose bridge says which module each belongs to.
"""

import copy
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
from transformers import PreTrainedModel


class AllSeen(Exception):
    """Every wanted activation has been seen: the rest of the forward pass is not needed."""


@dataclass(frozen=True)
class ModuleBoundary:
    """Where in the model a hook lies."""

    module: nn.Module
    side: Literal["in", "out"]


def twin(model: PreTrainedModel) -> tuple[PreTrainedModel, dict[nn.Module, nn.Module]]:
    """The model once more, in other modules over the same weights, and which module of `model` each of them is.

    A bridge takes the model that it is given apart; the other one stays whole.
    """
    weights = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    other = copy.deepcopy(model, weights)
    return other, dict(zip(other.modules(), model.modules(), strict=True))


def edges(bridge: TransformerBridge, modules: Mapping[nn.Module, nn.Module]) -> dict[str, ModuleBoundary]:
    """Edges by the bridge's names of hooks, aliases among them; what lies inside a module has none.

    Args:
        bridge: The bridge.
        modules: Of every module that the bridge was made of, the one whose edge is wanted.
    """
    found: dict[int, ModuleBoundary] = {}
    for part in bridge.modules():
        if not isinstance(part, GeneralizedComponent) or part.original_component is None:
            continue
        module = modules.get(part.original_component)
        if module is not None:
            found[id(part.hook_in)] = ModuleBoundary(module, "in")
            found[id(part.hook_out)] = ModuleBoundary(module, "out")
    return {name: found[id(point)] for name, point in bridge.hook_dict.items() if id(point) in found}


class PlainModel:
    """Forward passes that end at the deepest activation wanted. Threads may run them at once."""

    def __init__(self, model: PreTrainedModel, edges: Mapping[str, ModuleBoundary]) -> None:
        self.edges = edges
        self._model = model.eval()
        self._watched: set[str] = set()
        self._watching = threading.Lock()
        self._run = threading.local()

    @torch.no_grad()  # not inference_mode: its tensors cannot take part in an SAE's training
    def activations(
        self, rows: Int[Tensor, "batch pos"], hooks: Sequence[str]
    ) -> dict[str, Float[Tensor, "batch later_pos d"]]:
        """What stands at `hooks` at every position but the first, which is the BOS; float32.

        A hook whose module this model never calls, or that takes or gives no tensor, is left out.
        """
        self._watch(hooks)
        seen: dict[str, Tensor] = {}
        self._run.seen, self._run.wanted = seen, frozenset(hooks)
        try:
            with suppress(AllSeen):
                self._model(rows, use_cache=False)
        finally:
            del self._run.seen, self._run.wanted
        return seen

    def _watch(self, hooks: Sequence[str]) -> None:
        """Register at the modules whatever was never wanted before; it stays there, and does nothing unless wanted."""
        with self._watching:
            for hook in set(hooks) - self._watched:
                edge = self.edges[hook]

                def see_input(_: nn.Module, args: Any, kwargs: Any, hook: str = hook) -> None:
                    self._see(hook, args[0] if args else next(iter(kwargs.values())))

                def see_output(_: nn.Module, args: Any, output: Any, hook: str = hook) -> None:
                    self._see(hook, output if isinstance(output, Tensor) else output[0])

                if edge.side == "in":
                    edge.module.register_forward_pre_hook(see_input, with_kwargs=True)
                else:
                    edge.module.register_forward_hook(see_output)
                self._watched.add(hook)

    def _see(self, hook: str, activations: Any) -> None:
        if hook not in self._run.wanted or not isinstance(activations, Tensor):
            return
        # Copied: later layers may write into the tensor.
        self._run.seen[hook] = activations[:, 1:].float().clone()
        if len(self._run.seen) == len(self._run.wanted):
            raise AllSeen

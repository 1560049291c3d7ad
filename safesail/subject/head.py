"""A language model's own head, applied to vectors of the residual stream: what `logits` does, without the blocks."""

import torch
from jaxtyping import Float
from torch import Tensor

from safesail.subject.protocol import ModelInputs, ResidualState, Subject

_ROWS = 256
"""Vectors that go through the head at once."""


def last_hook(subject: Subject) -> str:
    """What the final norm and the head read."""
    return f"blocks.{subject.info.n_layers - 1}.hook_resid_post"


def head_logits(subject: Subject, x: Float[Tensor, "n d_model"]) -> Float[Tensor, "n vocabulary"]:
    """Logits of final norm and unembedding for each vector, as the model itself computes them.

    The vectors pass as positions of one row whose blocks are all skipped: norm and head treat each by itself.

    Raises:
        SubjectError: a model without a language head, or whose last block gives more than the residual.
    """
    size = min(_ROWS, subject.n_ctx_max)
    dtype = {"tf32": "float32"}.get(subject.info.dtype, subject.info.dtype)
    there = x.to(subject.device, getattr(torch, dtype))
    return torch.cat([_logits(subject, part) for part in there.split(size)])


def _logits(subject: Subject, x: Float[Tensor, "n d_model"]) -> Float[Tensor, "n vocabulary"]:
    ids = torch.zeros(1, len(x), dtype=torch.long, device=x.device)
    inputs = ModelInputs(ids, torch.ones_like(ids, dtype=torch.bool), slice(1, len(x)), None)
    state = ResidualState(subject.info.n_layers - 1, x[None], inputs)
    logits = subject.resume(state, logits=True).logits
    assert logits is not None
    return logits[0]

"""What every SAE can do, wherever its weights come from."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safesail.domain.records import SaeInfo

ROWS = 512
"""Tokens encoded or decoded at once: dense rows live only so long."""


@dataclass(frozen=True)
class SparseActs:
    """Nonzero feature activations of a run of tokens, sorted by token, then feature."""

    token: Int[Tensor, " nnz"]
    feature: Int[Tensor, " nnz"]
    value: Float[Tensor, " nnz"]
    """Greater than zero."""

    n_tokens: int
    d_sae: int

    @classmethod
    def above_zero(cls, dense: Float[Tensor, "n_tokens d_sae"]) -> "SparseActs":
        """From dense activations, of which values <= 0 are left out."""
        token, feature = torch.nonzero(dense > 0, as_tuple=True)
        return cls(token, feature, dense[token, feature].float(), *dense.shape)

    @classmethod
    def largest(cls, pre: Float[Tensor, "n_tokens d_sae"], k: int) -> "SparseActs":
        """ReLU(TopK(pre)) without a dense row of it: the `k` largest of every token that are above zero."""
        value, feature = pre.topk(min(k, pre.shape[1]), dim=1, sorted=False)
        feature, order = feature.sort(dim=1)
        value = value.gather(1, order)
        token, nth = torch.nonzero(value > 0, as_tuple=True)
        return cls(token, feature[token, nth], value[token, nth].float(), *pre.shape)

    @classmethod
    def join(cls, parts: Iterable["SparseActs"], d_sae: int) -> "SparseActs":
        """Runs of tokens one after the other, each given up before the next is asked for."""
        chunks: list[tuple[Tensor, Tensor, Tensor]] = []
        n_tokens = 0
        for part in parts:
            chunks.append((part.token + n_tokens, part.feature, part.value))
            n_tokens += part.n_tokens
        if not chunks:
            none = torch.zeros(0, dtype=torch.long)
            return cls(none, none, torch.zeros(0), 0, d_sae)
        token, feature, value = (torch.cat(column) for column in zip(*chunks, strict=True))
        return cls(token, feature, value, n_tokens, d_sae)

    def dense(self, first: int, rows: int) -> Float[Tensor, "rows d_sae"]:
        """Dense activations of `rows` tokens from token `first` on."""
        bounds = torch.tensor([first, first + rows], device=self.token.device)
        low, high = torch.searchsorted(self.token, bounds).tolist()
        dense = self.value.new_zeros(rows, self.d_sae)
        dense[self.token[low:high] - first, self.feature[low:high]] = self.value[low:high]
        return dense


@runtime_checkable
class SAE(Protocol):
    """An SAE in use: never trained, float32, on one device."""

    @property
    def info(self) -> SaeInfo:
        """What is known of it without its weights."""
        ...

    @property
    def decoder(self) -> Float[Tensor, "d_sae d_in"] | None:
        """Rows of W_dec, one a feature; None for an encoder-only checkpoint."""
        ...

    def encode(self, x: Float[Tensor, "n_tokens d_in"]) -> SparseActs:
        """Feature activations greater than zero."""
        ...

    def decode(self, acts: SparseActs) -> Float[Tensor, "n_tokens d_in"]:
        """The reconstruction x^.

        Raises:
            SaeError: an encoder-only checkpoint, or one whose reconstruction needs more than the activations.
        """
        ...

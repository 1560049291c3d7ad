"""What every SAE can do, wherever its weights come from."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safesail.domain.records import SaeInfo
from safesail.errors import SaeError

ROWS = 512
"""Tokens that a CPU encodes or decodes at once: dense rows live only so long."""

DENSE_BYTES = 1 << 28
"""Of dense rows that any other device makes at once: it works alone, and should be told what to do seldom."""


def rows_at_once(device: torch.device, d_sae: int) -> int:
    """Tokens that are encoded or decoded at once."""
    return ROWS if device.type == "cpu" else max(ROWS, DENSE_BYTES // (4 * d_sae))


@dataclass(frozen=True)
class SparseActs:
    """Nonzero feature activations of a run of tokens, sorted by token, then feature."""

    token: Int[Tensor, " nnz"]
    feature: Int[Tensor, " nnz"]
    value: Float[Tensor, " nnz"]
    """Greater than zero; 0 in empty slots, where slots were given."""

    n_tokens: int
    d_sae: int
    n_missing: Int[Tensor, ""] | None = None
    """Nonzeros for which there was no slot; None: there are no slots."""

    @classmethod
    def above_zero(cls, dense: Float[Tensor, "n_tokens d_sae"], slots: int | None = None) -> "SparseActs":
        """From dense activations, of which values <= 0 are left out; `slots` as `SAE.encode` takes them."""
        active = dense > 0
        if slots is None:
            token, feature = torch.nonzero(active, as_tuple=True)
            return cls(token, feature, dense[token, feature].float(), len(dense), dense.shape[1])
        size = len(dense) * min(slots, dense.shape[1])
        token, feature = torch.nonzero_static(active, size=size, fill_value=-1).unbind(1)
        empty = token < 0
        token = token.masked_fill(empty, len(dense) - 1)
        value = dense[token, feature].float().masked_fill(empty, 0)
        missing = (active.sum() - size).clamp(min=0)
        return cls(token, feature.clamp(min=0), value, len(dense), dense.shape[1], missing)

    @classmethod
    def largest(cls, pre: Float[Tensor, "n_tokens d_sae"], k: int, slots: int | None = None) -> "SparseActs":
        """ReLU(TopK(pre)) without a dense row of it: the `k` largest of every token that are above zero.

        With `slots`, of whatever number, every token has `k`.
        """
        value, feature = pre.topk(min(k, pre.shape[1]), dim=1, sorted=False)
        feature, order = feature.sort(dim=1)
        value = value.gather(1, order)
        if slots is not None:
            token = torch.arange(len(pre), device=pre.device)[:, None].expand_as(feature)
            values = value.flatten().float().relu()
            return cls(token.flatten(), feature.flatten(), values, len(pre), pre.shape[1])
        token, nth = torch.nonzero(value > 0, as_tuple=True)
        return cls(token, feature[token, nth], value[token, nth].float(), len(pre), pre.shape[1])

    @classmethod
    def join(cls, parts: Iterable["SparseActs"], d_sae: int) -> "SparseActs":
        """Runs of tokens one after the other, each given up before the next is asked for."""
        chunks: list[tuple[Tensor, Tensor, Tensor]] = []
        missing: list[Tensor] = []
        n_tokens = 0
        for part in parts:
            chunks.append((part.token + n_tokens, part.feature, part.value))
            missing += [] if part.n_missing is None else [part.n_missing]
            n_tokens += part.n_tokens
        if not chunks:
            none = torch.zeros(0, dtype=torch.long)
            return cls(none, none, torch.zeros(0), 0, d_sae)
        token, feature, value = (torch.cat(column) for column in zip(*chunks, strict=True))
        return cls(token, feature, value, n_tokens, d_sae, torch.stack(missing).sum() if missing else None)

    def dense(self, first: int, rows: int) -> Float[Tensor, "rows d_sae"]:
        """Dense activations of `rows` tokens from token `first` on."""
        bounds = torch.tensor([first, first + rows], device=self.token.device)
        low, high = torch.searchsorted(self.token, bounds).tolist()
        dense = self.value.new_zeros(rows, self.d_sae)
        index = (self.token[low:high] - first, self.feature[low:high])
        return dense.index_put_(index, self.value[low:high], accumulate=True)  # an empty slot adds nothing


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

    def encode(self, x: Float[Tensor, "n_tokens d_in"], slots: int | None = None) -> SparseActs:
        """Feature activations greater than zero.

        Args:
            x: Activations at the SAE's hook.
            slots: Room for so many nonzeros per token on average, so that the host need not wait to learn how many
                there are; slots may stay empty, and `n_missing` counts what had none. None: as many as there are.
        """
        ...

    def decode(self, acts: SparseActs) -> Float[Tensor, "n_tokens d_in"]:
        """The reconstruction x^.

        Raises:
            SaeError: an encoder-only checkpoint, or one whose reconstruction needs more than the activations.
        """
        ...


@dataclass(frozen=True)
class DescribedSae:
    """An SAE that is loaded elsewhere: what is known of it, without its weights."""

    info: SaeInfo

    @property
    def decoder(self) -> None:
        """None: there are no weights here."""
        return

    def encode(self, x: Float[Tensor, "n_tokens d_in"], slots: int | None = None) -> NoReturn:
        """Always an `SaeError`."""
        raise SaeError(f"{self.info.sae_id} is not loaded in this process")

    def decode(self, acts: SparseActs) -> NoReturn:
        """Always an `SaeError`."""
        raise SaeError(f"{self.info.sae_id} is not loaded in this process")

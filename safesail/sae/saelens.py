"""SAEs that SAELens can load, behind our protocol."""

from typing import Any

import torch
from jaxtyping import Float
from sae_lens import SAE as SaeLensSae
from sae_lens import JumpReLUSAE, StandardSAE, TopKSAE
from torch import Tensor
from torch.nn.functional import embedding_bag

from safesail.domain.records import SaeInfo
from safesail.errors import SaeError
from safesail.sae.protocol import SparseActs, rows_at_once

_SPARSE_SHARE = 1 / 8
"""Share of active features below which adding up their decoder rows is quicker than a dense product."""


class SaeLensWrapped:
    """An SAE of SAELens, of any of its architectures."""

    def __init__(
        self, inner: SaeLensSae[Any], info: SaeInfo, *, device: str = "cpu", decoder: bool = True
    ) -> None:
        """`decoder` False: what only decoding reads does not go to the device, or stay in memory."""
        self._inner = inner.eval().requires_grad_(False)
        self._decodes = decoder or not _encodes_alone(inner)
        if not self._decodes:
            inner.W_dec = torch.nn.Parameter(torch.empty(0), requires_grad=False)
        inner.to(device)  # SAELens keeps the device in its settings too
        self._rows = rows_at_once(inner.b_dec.device, info.d_sae)
        self._k = inner.cfg.k if isinstance(inner, TopKSAE) else None
        if isinstance(inner, TopKSAE):  # its last step is taken in `_encode`, which makes no dense row
            inner.activation_fn = torch.nn.Identity()
        self.info = info

    @property
    def decoder(self) -> Float[Tensor, "d_sae d_in"] | None:
        """Rows of W_dec; None where it was left out."""
        return self._inner.W_dec if self._decodes else None

    def encode(self, x: Float[Tensor, "n_tokens d_in"], slots: int | None = None) -> SparseActs:
        """Feature activations greater than zero; see `SAE.encode`."""
        rows = x.to(self._inner.b_dec.device, self._inner.dtype).split(self._rows)
        return SparseActs.join((self._encode(part, slots) for part in rows if len(part)), self.info.d_sae)

    def _encode(self, x: Float[Tensor, "rows d_in"], slots: int | None) -> SparseActs:
        encoded = self._inner.encode(x)
        if self._k is not None:
            return SparseActs.largest(encoded, self._k, slots)
        return SparseActs.above_zero(encoded.to_dense() if encoded.is_sparse else encoded, slots)

    @torch.no_grad()
    def decode(self, acts: SparseActs) -> Float[Tensor, "n_tokens d_in"]:
        """The reconstruction x^.

        Raises:
            SaeError: the SAE was loaded without its decoder, or scales by each token's own norm, which its
                activations do not hold.
        """
        if not self._decodes:
            raise SaeError(f"{self.info.sae_id} was loaded without its decoder")
        if self._inner.cfg.normalize_activations in ("layer_norm", "constant_norm_rescale"):
            raise SaeError(
                f"{self.info.sae_id} normalises token by token and cannot decode activations alone"
            )
        if self._adds_rows and len(acts.value) < _SPARSE_SHARE * acts.n_tokens * acts.d_sae:
            return self._add_rows(acts)
        x_hat = acts.value.new_zeros(acts.n_tokens, self.info.d_in)
        for first in range(0, acts.n_tokens, self._rows):
            rows = min(self._rows, acts.n_tokens - first)
            x_hat[first : first + rows] = self._inner.decode(
                acts.dense(first, rows).to(self._inner.dtype)
            ).float()
        return x_hat

    @property
    def _adds_rows(self) -> bool:
        """Whether decoding is W_dec's active rows times their activations, plus b_dec, and nothing else."""
        plain = isinstance(self._inner, StandardSAE | JumpReLUSAE | TopKSAE)
        rescaled = getattr(self._inner.cfg, "rescale_acts_by_decoder_norm", False)
        return plain and not rescaled and self._inner.cfg.normalize_activations == "none"

    def _add_rows(self, acts: SparseActs) -> Float[Tensor, "n_tokens d_in"]:
        starts = torch.searchsorted(acts.token, torch.arange(acts.n_tokens, device=acts.token.device))
        weights = acts.value.to(self._inner.dtype)
        added = embedding_bag(acts.feature, self._inner.W_dec, starts, mode="sum", per_sample_weights=weights)
        return (added + self._inner.b_dec).float()


def _encodes_alone(inner: SaeLensSae[Any]) -> bool:
    """Whether encoding never reads the decoder."""
    plain = isinstance(inner, StandardSAE | JumpReLUSAE | TopKSAE)
    return plain and not getattr(inner.cfg, "rescale_acts_by_decoder_norm", False)

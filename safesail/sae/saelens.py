"""SAEs that SAELens can load, behind our protocol."""

from typing import Any

import torch
from jaxtyping import Float
from sae_lens import SAE as SaeLensSae
from torch import Tensor

from safesail.domain.records import SaeInfo
from safesail.errors import SaeError
from safesail.sae.protocol import ROWS, SparseActs


class SaeLensWrapped:
    """An SAE of SAELens, of any of its architectures."""

    def __init__(self, inner: SaeLensSae[Any], info: SaeInfo) -> None:
        self._inner = inner.eval().requires_grad_(False)
        self.info = info

    @property
    def decoder(self) -> Float[Tensor, "d_sae d_in"]:
        """Rows of W_dec."""
        return self._inner.W_dec

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "n_tokens d_in"]) -> SparseActs:
        """Feature activations greater than zero."""
        rows = x.to(self._inner.device, self._inner.dtype).split(ROWS)
        parts = (self._inner.encode(part) for part in rows if len(part))
        return SparseActs.gather((p.to_dense() if p.is_sparse else p for p in parts), self.info.d_sae)

    @torch.no_grad()
    def decode(self, acts: SparseActs) -> Float[Tensor, "n_tokens d_in"]:
        """The reconstruction x^.

        Raises:
            SaeError: the SAE scales by each token's own norm, which its activations do not hold.
        """
        if self._inner.cfg.normalize_activations in ("layer_norm", "constant_norm_rescale"):
            raise SaeError(
                f"{self.info.sae_id} normalises token by token and cannot decode activations alone"
            )
        x_hat = acts.value.new_zeros(acts.n_tokens, self.info.d_in)
        for first in range(0, acts.n_tokens, ROWS):
            rows = min(ROWS, acts.n_tokens - first)
            x_hat[first : first + rows] = self._inner.decode(
                acts.dense(first, rows).to(self._inner.dtype)
            ).float()
        return x_hat

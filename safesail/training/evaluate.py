"""How good an SAE is on texts it was not trained on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from safesail.sae.edit import reconstruct
from safesail.sae.encode import SparseColumns, Spread, encode_rows
from safesail.sae.protocol import SAE
from safesail.subject.protocol import Intervention, Subject
from safesail.subject.rows import batches_by_length, mean_loss
from safesail.training.buffer import BATCH_TOKENS, Window, blocks_of


@dataclass(frozen=True)
class Figures:
    """What was measured of one SAE on held-out texts."""

    frac_variance_explained: float
    """1 - sum |x - x^|^2 / sum |x - mean x|^2; at most 1."""

    l0: float
    """Mean active features per token."""

    dead_share: float
    """Share of features that fired on none of the tokens, in [0, 1]."""

    n_tokens: int

    ce_clean: float
    """Subject model's cross-entropy, nats per token, as it is."""

    ce_zero: float
    """With zeros in the place of the activations at the hook."""

    ce_spliced: float
    """With the SAE's reconstruction in their place."""

    n_loss_tokens: int

    @property
    def ce_recovered(self) -> float | None:
        """(CE_zero - CE_spliced) / (CE_zero - CE_clean); None where zeroing the hook does no harm."""
        harm = self.ce_zero - self.ce_clean
        return (self.ce_zero - self.ce_spliced) / harm if harm > 0 else None


class Accumulator:
    """Sums of one SAE's figures, batch by batch; the order of batches does not matter."""

    def __init__(self, d_sae: int) -> None:
        self._fired = np.zeros(d_sae, dtype=bool)
        self._n_active = 0
        self._error = 0.0
        self._spread: Spread | None = None

    def add(self, acts: SparseColumns, spread: Spread) -> None:
        """Take in a batch: the SAE's activations, and the spread of what it read."""
        assert acts.squared_error is not None, "an SAE in training has a decoder"
        self._fired[acts.feature] = True
        self._n_active += len(acts.value)
        self._error += acts.squared_error
        self._spread = spread if self._spread is None else self._spread + spread

    def figures(self, losses: tuple[float, float, float], n_loss_tokens: int) -> Figures:
        """With cross-entropies `losses` as it is, zeroed and spliced. Needs at least two different tokens."""
        assert self._spread is not None, "no token"
        explained = 1 - self._error / self._spread.about_mean
        l0, n_tokens = self._n_active / self._spread.n, self._spread.n
        return Figures(explained, l0, 1 - self._fired.mean().item(), n_tokens, *losses, n_loss_tokens)


def measure(
    subject: Subject, saes: Sequence[SAE], windows: Sequence[Window], *, loss_tokens: int
) -> list[Figures]:
    """Figures of each SAE, the subject model running once for all, and once per SAE for the losses.

    Args:
        subject: The subject model.
        saes: SAEs of it that can decode.
        windows: Windows of held-out documents, in random order.
        loss_tokens: Tokens, the first of `windows`, for the losses.
    """
    sums = [Accumulator(sae.info.d_sae) for sae in saes]
    for batch in batches_by_length([len(window) for window in windows], BATCH_TOKENS):
        encoded = encode_rows(subject, saes, [windows[i] for i in batch], measure=True)
        for sae, total in zip(saes, sums, strict=True):
            total.add(encoded.by_sae[sae.info.sae_id], encoded.spreads[sae.info.hook])
    few = blocks_of(windows, loss_tokens)[0]
    n_loss_tokens = sum(map(len, few))
    clean = mean_loss(subject, few)
    hooks = {sae.info.hook for sae in saes}
    zero = {hook: mean_loss(subject, few, [Intervention(hook, _zeros)]) for hook in hooks}
    return [
        total.figures(
            (clean, zero[sae.info.hook], mean_loss(subject, few, [reconstruct(sae)])), n_loss_tokens
        )
        for sae, total in zip(saes, sums, strict=True)
    ]


def _zeros(x: Tensor, positions: Tensor) -> Tensor:
    return torch.zeros_like(x)

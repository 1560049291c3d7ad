"""How good an SAE is on texts it was not trained on."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from safesail.sae.edit import reconstruct
from safesail.sae.protocol import SAE
from safesail.subject.protocol import Intervention, Subject
from safesail.subject.rows import mean_loss
from safesail.training.buffer import block_activations, blocks_of

Windows = Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class Figures:
    """What was measured of one SAE on held-out texts."""

    frac_variance_explained: float
    """1 - sum |x - x^|^2 / sum |x - mean x|^2; at most 1."""

    l0: float
    """Mean features active a token."""

    dead_share: float
    """Share of features that fired on none of the tokens, in [0, 1]."""

    n_tokens: int

    ce_clean: float
    """Subject model's cross-entropy, nats a token, as it is."""

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
    """Sums of one SAE's figures, block by block; the order of blocks does not matter."""

    def __init__(self, d_in: int, d_sae: int) -> None:
        self.n_tokens = 0
        self._n_active = 0
        self._error = 0.0
        self._sum = torch.zeros(d_in, dtype=torch.float64)
        self._squares = 0.0
        self._fired = torch.zeros(d_sae, dtype=torch.bool)

    def add(self, x: Float[Tensor, "n_tokens d_in"], sae: SAE) -> None:
        """Take in what `sae` does to `x`."""
        acts = sae.encode(x)
        self.n_tokens += len(x)
        self._n_active += acts.value.numel()
        self._error += (x - sae.decode(acts)).double().square().sum().item()
        self._sum += x.double().sum(dim=0)
        self._squares += x.double().square().sum().item()
        self._fired[acts.feature.unique()] = True

    @property
    def frac_variance_explained(self) -> float:
        """As `Figures`; needs at least two different tokens."""
        variance = self._squares - self._sum.square().sum().item() / self.n_tokens
        return 1 - self._error / variance

    @property
    def l0(self) -> float:
        """As `Figures`."""
        return self._n_active / self.n_tokens

    @property
    def dead_share(self) -> float:
        """As `Figures`."""
        return 1 - self._fired.double().mean().item()


def measure(
    subject: Subject, saes: Sequence[SAE], windows: Windows, *, block_tokens: int, loss_tokens: int
) -> list[Figures]:
    """Figures of each SAE, the subject model running once for all, and once an SAE for the losses.

    Args:
        subject: The subject model.
        saes: SAEs of it that can decode.
        windows: Windows of held-out documents, in random order.
        block_tokens: Tokens whose activations are held at once.
        loss_tokens: Tokens, the first of `windows`, for the losses.
    """
    sums = [Accumulator(sae.info.d_in, sae.info.d_sae) for sae in saes]
    hooks = list(dict.fromkeys(sae.info.hook for sae in saes))
    for block in blocks_of(windows, block_tokens):
        activations = block_activations(subject, block, hooks)
        for sae, total in zip(saes, sums, strict=True):
            total.add(activations[sae.info.hook], sae)
    few = blocks_of(windows, loss_tokens)[0]
    n_loss = sum(map(len, few))
    clean = mean_loss(subject, few)
    zero = {hook: mean_loss(subject, few, [Intervention(hook, _zeros)]) for hook in hooks}
    return [
        Figures(
            total.frac_variance_explained,
            total.l0,
            total.dead_share,
            total.n_tokens,
            clean,
            zero[sae.info.hook],
            mean_loss(subject, few, [reconstruct(sae)]),
            n_loss,
        )
        for sae, total in zip(saes, sums, strict=True)
    ]


def _zeros(x: Tensor, positions: Tensor) -> Tensor:
    return torch.zeros_like(x)

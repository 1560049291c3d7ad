"""How strongly a feature may be steered: the largest strength whose cost on neutral text is not above a ceiling."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from safesail.domain.undefined import Undefined
from safesail.intervene.measure import CleanPass, Spots, mean_cost

WEAKEST, STEP, N_STEPS = 0.25, 4.0, 5
"""First look: strengths 0.25, 1, 4, 16, 64, in multiples of the feature's maximum."""

N_FINE = 4
"""Second look: so many between the last that is cheap enough and the next."""


@dataclass(frozen=True)
class Strength:
    """A strength of steering, and what it costs."""

    factor: float
    """In multiples of the feature's maximum."""

    cost: float
    """Nats per token that it adds to the cross-entropy of neutral text, steered at every token."""


def find_strength(
    clean: CleanPass, spots: Spots, full: Float[Tensor, " d_in"], ceiling: float
) -> Strength | Undefined:
    """The largest strength found whose cost is at most `ceiling`: within a third of the true one.

    Args:
        clean: Neutral text.
        spots: All its tokens with a next one.
        full: The feature's direction times its maximum.
        ceiling: Nats per token.
    """
    coarse = WEAKEST * STEP ** np.arange(N_STEPS)
    costs = measure_cost(clean, spots, full, coarse)
    n_cheap = int(np.argmax(np.append(costs > ceiling, True)))
    if n_cheap == 0:
        return Undefined(
            f"steering by {WEAKEST:g} times its maximum costs {costs[0]:.2f} nats per token already"
        )
    if n_cheap < len(coarse):
        fine = coarse[n_cheap - 1] * STEP ** (np.arange(1, N_FINE + 1) / (N_FINE + 1))
        coarse = np.append(coarse[:n_cheap], fine)
        costs = np.append(costs[:n_cheap], measure_cost(clean, spots, full, fine))
    best = int(np.argmax(np.append(costs > ceiling, True))) - 1
    return Strength(float(coarse[best]), float(costs[best]))


def measure_cost(
    clean: CleanPass, spots: Spots, full: Float[Tensor, " d_in"], factors: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Cost of each strength, nats per token."""
    scales = torch.tensor(factors, dtype=full.dtype, device=full.device)
    deltas = (scales[:, None] * full)[:, None, None, :].expand(-1, *clean.x.shape)
    return mean_cost(clean, deltas, spots)

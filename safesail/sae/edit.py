"""Interventions on SAE features: x' = x + sum over j of (f'_j - f_j) d_j, which keeps what the SAE does not explain."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from safesail.sae.protocol import SAE, SparseActs
from safesail.subject.protocol import Intervention

Change = Callable[[Float[Tensor, " n_tokens"]], Float[Tensor, " n_tokens"]]
"""One feature's activations to what they should be."""


def ablate(f: Float[Tensor, " n_tokens"]) -> Float[Tensor, " n_tokens"]:
    """The feature off."""
    return torch.zeros_like(f)


def scale(factor: float) -> Change:
    """`factor` times as strong where it is active; 1 changes nothing."""
    return lambda f: f * factor


def add(amount: float) -> Change:
    """Stronger by `amount` at every token."""
    return lambda f: f + amount


def clamp(value: float) -> Change:
    """At `value` on every token."""
    return lambda f: torch.full_like(f, value)


def where_active(change: Change) -> Change:
    """The change on tokens on which the feature is active, and none on the others."""
    return lambda f: torch.where(f > 0, change(f), f)


def edit_features(
    sae: SAE, changes: Mapping[int, Change], *, at: Callable[[Tensor], Tensor] | None = None
) -> Intervention:
    """An intervention at the SAE's hook; tokens on which f' = f stay as they are to the last bit.

    Args:
        sae: An SAE that can decode activations.
        changes: By feature, what its activations become.
        at: Positions [batch, pos] to whether a token is edited; None: all of them.

    Raises:
        SaeError: the SAE has no decoder, or one that needs more than the activations.
        ValueError: a feature that the SAE does not have.
    """
    features = list(changes)
    if wrong := [j for j in features if not 0 <= j < sae.info.d_sae]:
        raise ValueError(f"{sae.info.sae_id} has {sae.info.d_sae} features, no #{wrong[0]}")
    directions = feature_directions(sae, features)

    def edit(x: Tensor, positions: Tensor) -> Tensor:
        chosen = positions >= 0 if at is None else (positions >= 0) & at(positions)
        tokens = x[chosen]
        f = feature_values(sae.encode(tokens), features).to(x.device)
        wanted = torch.stack([changes[j](f[:, i]) for i, j in enumerate(features)], dim=1)
        delta = wanted - f
        touched = (delta != 0).any(dim=1)
        tokens[touched] += delta[touched] @ directions.to(x.device)
        x[chosen] = tokens
        return x

    return Intervention(sae.info.hook, edit)


def reconstruct(sae: SAE) -> Intervention:
    """The SAE's reconstruction in the place of the activations: what it does not explain is lost."""

    def edit(x: Tensor, positions: Tensor) -> Tensor:
        x[positions >= 0] = sae.decode(sae.encode(x[positions >= 0])).to(x)
        return x

    return Intervention(sae.info.hook, edit)


def feature_directions(sae: SAE, features: Sequence[int]) -> Float[Tensor, "n_features d_in"]:
    """d_j: what one unit of each feature adds to the reconstruction, however the SAE scales its decoder.

    Raises:
        SaeError: the SAE has no decoder, or one that needs more than the activations.
    """
    device = None if sae.decoder is None else sae.decoder.device
    n = len(features)
    token, feature = torch.arange(1, n + 1, device=device), torch.tensor(list(features), device=device)
    decoded = sae.decode(SparseActs(token, feature, torch.ones(n, device=device), n + 1, sae.info.d_sae))
    return decoded[1:] - decoded[0]


def feature_values(acts: SparseActs, features: Sequence[int]) -> Float[Tensor, "n_tokens n_features"]:
    """Activations of some features on every token, 0 where they are not active."""
    dense = acts.value.new_zeros(acts.n_tokens, len(features))
    for i, feature in enumerate(features):
        of_feature = acts.feature == feature
        dense[acts.token[of_feature], i] = acts.value[of_feature]
    return dense

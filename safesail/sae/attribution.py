"""Which features a prediction rests on: gradient x activation, one backward pass for all features of all SAEs.

To first order, switching feature j off at token t changes the target by -f_j(t) (d_j . gradient at its hook).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from safesail.domain.ids import FeatureId
from safesail.errors import ConfigError, meant
from safesail.sae.edit import feature_directions, feature_values
from safesail.sae.protocol import SAE, SparseActs
from safesail.subject.device import to_host
from safesail.subject.protocol import Subject, Target


@dataclass(frozen=True)
class Attributions:
    """Of one SAE on one text, a row per token and active feature."""

    position: NDArray[np.int64]
    feature: NDArray[np.int64]
    activation: NDArray[np.float32]
    attribution: NDArray[np.float32]
    """What the feature adds to the target, to first order; minus it is what an ablation there changes."""

    def by_feature(self) -> dict[int, float]:
        """Summed over tokens."""
        features, where = np.unique(self.feature, return_inverse=True)
        totals = np.bincount(where, weights=self.attribution, minlength=len(features))
        return dict(zip(features.tolist(), totals.tolist(), strict=True))


def token_target(token: int) -> Target:
    """Log-odds of a token as the next one after the text."""

    def target(activations: Mapping[str, Tensor], logits: Tensor) -> Tensor:
        log_p = torch.log_softmax(logits[0, -1].double(), dim=0)
        others = torch.cat([log_p[:token], log_p[token + 1 :]])
        return log_p[token] - torch.logsumexp(others, dim=0)

    return target


def feature_target(sae: SAE, feature: int) -> Target:
    """A later feature's activation, summed over the text."""

    def target(activations: Mapping[str, Tensor], logits: Tensor) -> Tensor:
        return feature_values(sae.encode(activations[sae.info.hook][0]), [feature]).sum()

    return target


def value_slopes(
    subject: Subject, ids: Sequence[int], later: SAE, wanted: Sequence[tuple[int, int]], hooks: Sequence[str]
) -> dict[str, Float[Tensor, "n_wanted n_tokens d_in"]]:
    """What one more unit of every activation adds to a feature's value on one token, for many of them in one pass.

    Args:
        subject: The subject model.
        ids: The text.
        later: The SAE of the features.
        wanted: (token, feature) of each.
        hooks: Hooks before that of `later`.

    Returns:
        By hook, the gradient of each wanted value.

    Raises:
        ConfigError, SubjectError: as `attribute`.
    """

    def target(activations: Mapping[str, Tensor], logits: Tensor) -> Tensor:
        x = activations[later.info.hook]
        rows = torch.arange(len(wanted), device=x.device)
        at = torch.tensor([position for position, _ in wanted], device=x.device)
        # Every row of the batch holds the text and one of the wanted values: rows do not see each other.
        acts = later.encode(x[rows, at])
        features = torch.tensor([feature for _, feature in wanted], device=acts.feature.device)
        return acts.value[acts.feature == features[acts.token]].sum()

    repeated = torch.tensor([list(ids)]).repeat(len(wanted), 1)
    _, gradients = subject.differentiate(repeated, [*hooks, later.info.hook], target)
    return {hook: gradients[hook] for hook in hooks}


def attribute(
    subject: Subject, saes: Sequence[SAE], ids: Sequence[int], target: Target, *, hooks: Sequence[str] = ()
) -> dict[str, Attributions]:
    """Attributions of all active features of several SAEs to one target, by SAE.

    Args:
        subject: The subject model.
        saes: With their decoders.
        ids: The text.
        target: As `token_target` and `feature_target` make it.
        hooks: Further hooks that the target reads.

    Raises:
        ConfigError: an empty or too long text, or a hook that the model does not have.
        SaeError: an SAE without a decoder.
        SubjectError: a model without a language head.
    """
    if not 0 < len(ids) <= subject.n_ctx_max:
        raise ConfigError(f"the text has {len(ids)} tokens; from 1 to {subject.n_ctx_max} are taken")
    at = list(dict.fromkeys([*(sae.info.hook for sae in saes), *hooks]))
    activations, gradients = subject.differentiate(torch.tensor([list(ids)]), at, target)
    with torch.no_grad():
        return {
            sae.info.sae_id: _attributions(sae, activations[sae.info.hook][0], gradients[sae.info.hook][0])
            for sae in saes
        }


def attribute_to(
    subject: Subject, saes: Sequence[SAE], ids: Sequence[int], target: FeatureId
) -> dict[str, Attributions]:
    """Attributions to a later feature, of the SAEs that lie before it.

    Raises:
        ConfigError: as `attribute`, or the target's SAE is not among `saes`.
        SaeError: an SAE without a decoder.
    """
    known = {sae.info.sae_id: sae for sae in saes}
    if target.sae_id not in known:
        raise ConfigError(f"no SAE {target.sae_id!r} is loaded; {meant(target.sae_id, known)}")
    later = known[target.sae_id]
    if target.index >= later.info.d_sae:
        raise ConfigError(f"there is no {target}: its features are 0 to {later.info.d_sae - 1}")
    others = [sae for sae in saes if sae is not later]
    return attribute(subject, others, ids, feature_target(later, target.index), hooks=[later.info.hook])


def _attributions(
    sae: SAE, x: Float[Tensor, "n_tokens d_in"], gradient: Float[Tensor, "n_tokens d_in"]
) -> Attributions:
    acts: SparseActs = sae.encode(x)
    active, which = torch.unique(acts.feature, return_inverse=True)
    directions = feature_directions(sae, to_host(active).tolist()).to(gradient.device)
    slopes = gradient @ directions.T
    added = acts.value * slopes[acts.token, which]
    columns = (acts.token, acts.feature, acts.value, added)
    return Attributions(*(to_host(column).numpy() for column in columns))

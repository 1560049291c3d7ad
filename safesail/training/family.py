"""The mathematics of one TopK SAE in training. Knows nothing of models, texts or files.

z = ReLU(TopK(W_enc (x - b_dec) + b_enc)),  x^ = W_dec z + b_dec  (Gao et al. 2024, eqs. 2 and 3)
"""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class TopKWeights:
    """Parameters of one SAE; the rows of `w_dec` have unit length."""

    w_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    w_dec: Float[Tensor, "d_sae d_in"]
    b_dec: Float[Tensor, " d_in"]

    def tensors(self) -> dict[str, Tensor]:
        """The parameters by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to(self, device: str) -> "TopKWeights":
        """The same on another device."""
        return TopKWeights(**{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def saelens(self) -> dict[str, Tensor]:
        """The parameters by SAELens' names."""
        return {"W_enc": self.w_enc, "b_enc": self.b_enc, "W_dec": self.w_dec, "b_dec": self.b_dec}


@dataclass(frozen=True)
class Sparse:
    """The k strongest features of each token; entries may be 0 where fewer are positive."""

    index: Int[Tensor, "n_tokens k"]
    value: Float[Tensor, "n_tokens k"]


@dataclass(frozen=True)
class Normaliser:
    """x -> (x - mean) * scale, so that the mean is 0 and the mean squared norm is d_in."""

    mean: Float[Tensor, " d_in"]
    scale: float

    @classmethod
    def fit(cls, x: Float[Tensor, "n_tokens d_in"]) -> "Normaliser":
        """From the first activations of a run.

        Raises:
            ValueError: fewer than 2 tokens, or all alike.
        """
        mean = x.mean(dim=0)
        power = (x - mean).pow(2).sum(dim=1).mean().item() if len(x) > 1 else 0.0
        if power == 0.0:
            raise ValueError("cannot normalise activations that do not vary")
        return cls(mean, (x.shape[1] / power) ** 0.5)

    def apply(self, x: Float[Tensor, "n_tokens d_in"]) -> Float[Tensor, "n_tokens d_in"]:
        """Normalised activations."""
        return (x - self.mean) * self.scale

    def fold(self, weights: TopKWeights) -> TopKWeights:
        """The SAE for raw activations that does what `weights` does for normalised ones.

        With s the scale: feature activations become 1/s as large, the unit rows of `w_dec` stay.
        """
        return TopKWeights(
            w_enc=weights.w_enc,
            b_enc=weights.b_enc / self.scale,
            w_dec=weights.w_dec,
            b_dec=self.mean + weights.b_dec / self.scale,
        )


def initial(d_in: int, d_sae: int, generator: torch.Generator) -> TopKWeights:
    """Random unit directions, the encoder the decoder's transpose, no biases."""
    w_dec = F.normalize(torch.randn(d_sae, d_in, generator=generator), dim=1)
    return TopKWeights(w_dec.T.contiguous(), torch.zeros(d_sae), w_dec, torch.zeros(d_in))


def pre_activations(
    weights: TopKWeights, x: Float[Tensor, "n_tokens d_in"]
) -> Float[Tensor, "n_tokens d_sae"]:
    """W_enc (x - b_dec) + b_enc, before TopK and ReLU."""
    # b_dec is folded into the bias: x then needs no gradient, which saves a product as large as this one.
    return torch.addmm(weights.b_enc - weights.b_dec @ weights.w_enc, x, weights.w_enc)


def top_k(pre: Float[Tensor, "n_tokens d_sae"], k: int) -> Sparse:
    """The k largest pre-activations of each token, negative ones set to 0."""
    value, index = pre.topk(k, dim=-1, sorted=False)
    return Sparse(index, value.relu())


def decode(weights: TopKWeights, acts: Sparse) -> Float[Tensor, "n_tokens d_in"]:
    """The reconstruction x^, reading only the rows of `w_dec` that are active."""
    # On 2 CPU cores half the time of the dense product for k <= 64, and equal at k = 256 (d_sae 1,536).
    rows = F.embedding_bag(acts.index, weights.w_dec, per_sample_weights=acts.value, mode="sum")
    return rows + weights.b_dec


def reconstruction_loss(
    x: Float[Tensor, "n_tokens d_in"], x_hat: Float[Tensor, "n_tokens d_in"]
) -> Float[Tensor, ""]:
    """|x - x^|^2 / d_in, averaged over tokens: for normalised x the fraction of variance unexplained."""
    return (x - x_hat).pow(2).mean()


def auxk_loss(
    weights: TopKWeights,
    pre: Float[Tensor, "n_tokens d_sae"],
    error: Float[Tensor, "n_tokens d_in"],
    dead: Bool[Tensor, " d_sae"],
) -> Float[Tensor, ""]:
    """How badly the strongest d_in/2 dead features rebuild what the living left over, relative to it.

    Gao et al. 2024, section 2.4. 0 where no feature is dead. `error` = x - x^ is taken as given.
    """
    candidates = dead.nonzero().squeeze(-1)
    power = error.detach().pow(2).mean()
    if candidates.numel() == 0 or power == 0:
        return pre.new_zeros(())
    k_aux = min(weights.w_dec.shape[1] // 2, int(candidates.numel()))
    chosen = top_k(pre[:, candidates], k_aux)
    w_dead = weights.w_dec[candidates]
    dense = pre.new_zeros(len(pre), len(candidates)).scatter(1, chosen.index, chosen.value)
    return (error.detach() - dense @ w_dead).pow(2).mean() / power


def project_gradient(w_dec: Float[Tensor, "d_sae d_in"], gradient: Float[Tensor, "d_sae d_in"]) -> None:
    """Take out, in place, the part of each row's gradient along the row, which would only change its length."""
    gradient.sub_((gradient * w_dec).sum(dim=1, keepdim=True) * w_dec)


def unit_rows(w_dec: Float[Tensor, "d_sae d_in"]) -> None:
    """Scale each row to unit length, in place."""
    w_dec.div_(w_dec.norm(dim=1, keepdim=True).clamp_min(torch.finfo(w_dec.dtype).tiny))

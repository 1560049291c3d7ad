"""One SAE in training: its weights, optimiser and memory of which features are dead. No files."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from safesail.training import family
from safesail.training.config import SaePlan, TrainConfig


class Trainee:
    """One SAE on its way, trained on normalised activations."""

    def __init__(self, plan: SaePlan, weights: family.TopKWeights, config: TrainConfig) -> None:
        self.plan = plan
        self.weights = weights
        self.tokens_seen = 0
        """Tokens used, each pass counted."""
        self._config = config
        self._silent = torch.zeros(plan.d_sae, device=weights.b_enc.device)
        parameters = [tensor.requires_grad_() for tensor in weights.tensors().values()]
        # The loss is a mean over d_in and batch, so that gradients of rare features are far below 1e-8.
        self._optimiser = torch.optim.Adam(parameters, lr=config.lr, eps=1e-12, fused=True)

    @classmethod
    def start(cls, plan: SaePlan, d_in: int, config: TrainConfig, device: str = "cpu") -> Self:
        """Untrained, from the run's seed: SAEs of one width start alike."""
        generator = torch.Generator().manual_seed(config.seed)
        return cls(plan, family.initial(d_in, plan.d_sae, generator).to(device), config)

    def learn(self, batches: Sequence[Float[Tensor, "batch d_in"]], progress: tuple[float, float]) -> float:
        """Take one step a batch; mean reconstruction loss of the batches.

        Args:
            batches: normalised activations.
            progress: shares of the whole run done before and after these batches, for the learning rate.
        """
        total = 0.0
        for i, x in enumerate(batches):
            done = progress[0] + (progress[1] - progress[0]) * (i + 0.5) / len(batches)
            self._optimiser.param_groups[0]["lr"] = self._config.lr * rate(
                done, self._config.warmup, self._config.decay
            )
            total += self._step(x)
        return total / max(len(batches), 1)

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs, as tensors and plain values."""
        return {
            "weights": {name: tensor.detach() for name, tensor in self.weights.tensors().items()},
            "optimiser": self._optimiser.state_dict(),
            "silent": self._silent,
            "tokens_seen": self.tokens_seen,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        with torch.no_grad():
            for name, tensor in self.weights.tensors().items():
                tensor.copy_(state["weights"][name])
        self._optimiser.load_state_dict(state["optimiser"])
        self._silent = state["silent"].to(self._silent.device)
        self.tokens_seen = state["tokens_seen"]

    def _step(self, x: Tensor) -> float:
        weights, config = self.weights, self._config
        pre = family.pre_activations(weights, x)
        acts = family.top_k(pre, self.plan.k)
        x_hat = family.decode(weights, acts)
        loss = family.reconstruction_loss(x, x_hat)
        dead = self._silent >= config.dead_after_tokens
        whole = loss
        if config.auxk_coefficient > 0 and bool(dead.any()):
            whole = loss + config.auxk_coefficient * family.auxk_loss(weights, pre, x - x_hat, dead)
        self._optimiser.zero_grad()
        whole.backward()
        with torch.no_grad():
            assert weights.w_dec.grad is not None
            family.project_gradient(weights.w_dec, weights.w_dec.grad)
            self._optimiser.step()
            family.unit_rows(weights.w_dec)
            self._silent += len(x)
            self._silent[acts.index[acts.value > 0]] = 0
        self.tokens_seen += len(x)
        return loss.item()


def rate(done: float, warmup: float, decay: float) -> float:
    """Factor of the learning rate when the share `done` of a run is over: up, level, down to 0."""
    up = done / warmup if warmup > 0 and done < warmup else 1.0
    down = (1 - done) / decay if decay > 0 and done > 1 - decay else 1.0
    return max(0.0, min(up, down))

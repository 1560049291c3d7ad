"""The one pass of the subject model over all pairs, and every SAE on it."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Self

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from safesail.errors import SaeError
from safesail.sae.protocol import SAE
from safesail.selection.batches import Batch
from safesail.subject.model import SubjectModel


@dataclass(frozen=True)
class TextActs:
    """Nonzero activations of one SAE on a batch, in columns of one length."""

    text: NDArray[np.int64]
    """Row of the batch that the token belongs to."""

    feature: NDArray[np.int64]
    value: NDArray[np.float32]


@dataclass(frozen=True)
class Spread:
    """Variance of the activations at one hook, as sums over tokens."""

    n: int
    total: Float[np.ndarray, " d_in"]
    squares: float

    @classmethod
    def of(cls, x: Tensor) -> Self:
        """That of a batch's activations, `tokens d_in`."""
        wide = x.double()
        return cls(x.shape[0], wide.sum(dim=0).cpu().numpy(), wide.square().sum().item())

    def __add__(self, other: Self) -> Self:
        return replace(
            self, n=self.n + other.n, total=self.total + other.total, squares=self.squares + other.squares
        )

    @property
    def about_mean(self) -> float:
        """Sum of squared distances from the mean."""
        return self.squares - float(self.total @ self.total) / self.n


@dataclass
class Tally:
    """Counts of one SAE over some batches."""

    n_tokens: int = 0
    n_active: int = 0
    residual: float = 0.0
    """Sum of squared reconstruction errors."""

    seconds: float = 0.0
    """Encoding and decoding."""

    def __add__(self, other: Self) -> Self:
        return replace(self, **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    @property
    def l0(self) -> float:
        """Mean active features a token."""
        return self.n_active / self.n_tokens

    def fvu(self, spread: Spread) -> float | None:
        """Fraction of variance unexplained about the mean; None where nothing varies."""
        return self.residual / spread.about_mean if spread.about_mean > 0 else None


@dataclass
class Encoder:
    """Runs batches through the subject model once, whatever the number of SAEs."""

    subject: SubjectModel
    saes: Sequence[SAE]
    tallies: dict[str, Tally] = field(init=False)
    """By SAE."""

    spreads: dict[str, Spread] = field(init=False)
    """By hook."""

    model_seconds: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.tallies = {sae.info.sae_id: Tally() for sae in self.saes}
        self.spreads = {sae.info.hook: Spread(0, np.zeros(sae.info.d_in), 0.0) for sae in self.saes}

    def check(self) -> None:
        """Hold hooks and sizes against the subject model before any work is done.

        Raises:
            ConfigError: the subject model has no such hook.
            SaeError: an SAE reads activations of another size.
        """
        for hook in self.spreads:
            self.subject.check_hook(hook)
        seen = self.subject.capture(torch.zeros((1, 1), dtype=torch.long), list(self.spreads))
        for sae in self.saes:
            size = seen[sae.info.hook].shape[-1]
            if size != sae.info.d_in:
                raise SaeError(
                    f"SAE {sae.info.sae_id!r} reads {sae.info.d_in} numbers, {sae.info.hook} of"
                    f" {self.subject.info.model_id} has {size}; it was trained for another model or hook"
                )

    def encode(self, batch: Batch) -> Iterator[tuple[SAE, TextActs]]:
        """Every SAE's activations on a batch, without BOS and padding."""
        tokens, mask = _pad(batch.rows)
        text = torch.nonzero(mask)[:, 0].numpy()
        started = time.perf_counter()
        seen = self.subject.capture(tokens, list(self.spreads), attention_mask=mask)
        at_hook = {hook: x[mask.bool().to(x.device)] for hook, x in seen.items()}
        for hook, x in at_hook.items():
            self.spreads[hook] += Spread.of(x)
        self.model_seconds += time.perf_counter() - started
        for sae in self.saes:
            yield sae, self._encode(sae, at_hook[sae.info.hook], text)

    @torch.inference_mode()
    def _encode(self, sae: SAE, x: Tensor, text: NDArray[np.int64]) -> TextActs:
        tally = self.tallies[sae.info.sae_id]
        started = time.perf_counter()
        acts = sae.encode(x)
        if sae.decoder is not None:
            tally.residual += (x - sae.decode(acts)).square().sum(dim=1).double().sum().item()
        value = acts.value.cpu().numpy().astype(np.float32)
        tally.n_tokens += x.shape[0]
        tally.n_active += int(np.count_nonzero(value > 0))
        found = TextActs(text[acts.token.cpu().numpy()], acts.feature.cpu().numpy().astype(np.int64), value)
        tally.seconds += time.perf_counter() - started
        return found


def _pad(rows: Sequence[NDArray[np.int32]]) -> tuple[Tensor, Tensor]:
    """Token rows padded on the right, and their mask."""
    longest = max(len(row) for row in rows)
    tokens = torch.zeros((len(rows), longest), dtype=torch.long)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.from_numpy(row.astype(np.int64))
        mask[i, : len(row)] = 1
    return tokens, mask

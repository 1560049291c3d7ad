"""The one pass of the subject model over all pairs, and every SAE on it, with its counts."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Self

import numpy as np
import torch

from safesail.errors import SaeError
from safesail.sae.encode import SparseColumns, Spread, encode_rows
from safesail.sae.protocol import SAE
from safesail.selection.batches import Batch
from safesail.subject.protocol import Subject


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
        """Mean active features per token."""
        return self.n_active / self.n_tokens

    def fvu(self, spread: Spread) -> float | None:
        """Fraction of variance unexplained about the mean; None where nothing varies."""
        return self.residual / spread.about_mean if spread.about_mean > 0 else None


@dataclass
class Encoder:
    """Runs batches through the subject model once, whatever the number of SAEs."""

    subject: Subject
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
        seen = self.subject.run(torch.zeros((1, 1), dtype=torch.long), capture=list(self.spreads)).activations
        for sae in self.saes:
            size = seen[sae.info.hook].shape[-1]
            if size != sae.info.d_in:
                raise SaeError(
                    f"SAE {sae.info.sae_id!r} reads {sae.info.d_in} numbers, {sae.info.hook} of"
                    f" {self.subject.info.model_id} has {size}; it was trained for another model or hook"
                )

    def encode(self, batch: Batch) -> dict[str, SparseColumns]:
        """Every SAE's activations on a batch, by SAE."""
        encoded = encode_rows(self.subject, self.saes, batch.rows, measure=True)
        self.model_seconds += encoded.model_seconds
        for hook, spread in encoded.spreads.items():
            self.spreads[hook] += spread
        for name, acts in encoded.by_sae.items():
            self.tallies[name] += Tally(
                encoded.n_tokens, len(acts.value), acts.squared_error or 0.0, acts.seconds
            )
        return dict(encoded.by_sae)

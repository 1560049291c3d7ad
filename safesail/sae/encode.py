"""Rows of tokens through the subject model once, and every SAE on what its hook gives. Stages do this nowhere else."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from safesail.errors import SubjectError
from safesail.sae.protocol import SAE
from safesail.subject.protocol import Subject
from safesail.subject.rows import Rows, pad


@dataclass(frozen=True)
class Spread:
    """Variance of the activations at one hook, as sums over tokens."""

    n: int
    total: Float[np.ndarray, " d_in"]
    squares: float

    @classmethod
    def of(cls, x: Float[Tensor, "n_tokens d_in"]) -> "Spread":
        """That of some tokens' activations."""
        wide = x.double()
        return cls(x.shape[0], wide.sum(dim=0).cpu().numpy(), wide.square().sum().item())

    def __add__(self, other: "Spread") -> "Spread":
        return replace(
            self, n=self.n + other.n, total=self.total + other.total, squares=self.squares + other.squares
        )

    @property
    def about_mean(self) -> float:
        """Sum of squared distances from the mean."""
        return self.squares - float(self.total @ self.total) / self.n


@dataclass(frozen=True)
class RowActivations:
    """Activations on every token of some rows, row by row; special tokens, prefix and padding left out."""

    row: NDArray[np.int32]
    """Per token: its row."""

    position: NDArray[np.int32]
    """Per token: its position in the row, the prefix not counted."""

    by_hook: Mapping[str, Float[Tensor, "n_tokens d_in"]]
    """On the subject model's device."""


@dataclass(frozen=True)
class SparseColumns:
    """Nonzero activations of one SAE, in columns of one length, in the order of row, position and feature."""

    row: NDArray[np.int32]
    position: NDArray[np.int32]
    feature: NDArray[np.int32]
    value: NDArray[np.float32]
    squared_error: float | None
    """Sum of squared reconstruction errors over all tokens; None: not asked for, or an SAE without a decoder."""

    seconds: float
    """Spent on encoding and decoding."""


@dataclass(frozen=True)
class EncodedRows:
    """What one pass over some rows gave."""

    n_tokens: int
    by_sae: Mapping[str, SparseColumns]
    spreads: Mapping[str, Spread]
    """By hook; empty where not asked for."""

    model_seconds: float


def run_rows(
    subject: Subject,
    rows: Rows,
    hooks: Sequence[str],
    *,
    prefix: Sequence[int] = (),
    name_row: Callable[[int], str] = "row {}".format,
) -> RowActivations:
    """Pad rows, run the subject model once for all hooks, and take out what belongs to the rows' own tokens.

    Args:
        subject: The subject model.
        rows: Token ids.
        hooks: Hook points.
        prefix: Tokens put before every row, such as a chat template's, which the model reads and the result leaves out.
        name_row: The name of a row in errors.

    Raises:
        ConfigError: a hook that the model does not have.
        SubjectError: the model gives numbers that are not finite.
    """
    ids, mask = pad(rows, prefix)
    ran = subject.run(ids, capture=hooks, attention_mask=mask)
    own = mask.bool()
    own[:, : len(prefix)] = False
    row, position = (index.numpy().astype(np.int32) for index in torch.nonzero(own, as_tuple=True))
    by_hook: dict[str, Tensor] = {}
    for hook, activations in ran.activations.items():
        by_hook[hook] = x = activations[own.to(activations.device)]
        finite = torch.isfinite(x).all(dim=1)
        if not bool(finite.all()):
            first = int(torch.nonzero(~finite)[0])
            raise SubjectError(
                f"{subject.info.model_id} gives numbers that are not finite at {hook} ({name_row(int(row[first]))}); "
                "run it in float32, or leave that text out"
            )
    return RowActivations(row, position - len(prefix), by_hook)


def encode_rows(
    subject: Subject,
    saes: Sequence[SAE],
    rows: Rows,
    *,
    prefix: Sequence[int] = (),
    name_row: Callable[[int], str] = "row {}".format,
    measure: bool = False,
) -> EncodedRows:
    """`run_rows`, and every SAE's nonzero activations on it; only they leave the device.

    Args:
        subject: The subject model.
        saes: SAEs of any of its hooks.
        rows: Token ids.
        prefix: As in `run_rows`.
        name_row: As in `run_rows`.
        measure: Also reconstruct, and sum up squared errors and the activations' spreads.

    Raises:
        ConfigError: a hook that the model does not have.
        SubjectError: the model gives numbers that are not finite.
    """
    started = time.perf_counter()
    hooks = list(dict.fromkeys(sae.info.hook for sae in saes))
    ran = run_rows(subject, rows, hooks, prefix=prefix, name_row=name_row)
    spreads = {hook: Spread.of(x) for hook, x in ran.by_hook.items()} if measure else {}
    model_seconds = time.perf_counter() - started
    by_sae = {sae.info.sae_id: _encode(sae, ran, measure=measure) for sae in saes}
    return EncodedRows(len(ran.row), by_sae, spreads, model_seconds)


@torch.inference_mode()
def _encode(sae: SAE, ran: RowActivations, *, measure: bool) -> SparseColumns:
    started = time.perf_counter()
    x = ran.by_hook[sae.info.hook]
    acts = sae.encode(x)
    error = None
    if measure and sae.decoder is not None:
        error = (x - sae.decode(acts).to(x.device)).square().sum(dim=1).double().sum().item()
    token = acts.token.int().cpu().numpy()
    return SparseColumns(
        ran.row[token],
        ran.position[token],
        acts.feature.int().cpu().numpy(),
        acts.value.cpu().numpy(),
        error,
        time.perf_counter() - started,
    )

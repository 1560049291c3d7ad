"""Rows of tokens through the subject model once, and every SAE on what its hook gives. Stages do this nowhere else.

What all SAEs of a batch give leaves the device in one transfer, 8 bytes per slot and 4 per token and SAE. A device is
never asked how many nonzeros there are: an SAE has slots for as many as it needed before, and where they do not suffice
it encodes that batch again.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from safesail.errors import SubjectError
from safesail.sae.protocol import SAE, SparseActs, rows_at_once
from safesail.subject.device import memory_faults, to_host
from safesail.subject.protocol import Subject
from safesail.subject.rows import Rows, pad

_SLOTS: WeakKeyDictionary[SAE, int] = WeakKeyDictionary()
"""Slots per token that an SAE is given: a hint from the batches before, which changes no result."""

_SPARE = 1.25
"""Slots for each nonzero per token in the fullest rows so far: what is empty crosses the bus too."""


@dataclass(frozen=True)
class Spread:
    """Variance of the activations at one hook, as sums over tokens."""

    n: int
    total: Float[np.ndarray, " d_in"]
    squares: float

    @classmethod
    def read(cls, n: int, sums: Float[np.ndarray, " d_in_and_1"]) -> "Spread":
        """From what `sums` gives, on the host."""
        return cls(n, sums[:-1].copy(), float(sums[-1]))

    @staticmethod
    def sums(x: Float[Tensor, "n_tokens d_in"]) -> Float[Tensor, " d_in_and_1"]:
        """Total of every dimension, and of all squares, over some tokens' activations, float64."""
        wide = x.double()
        return torch.cat([wide.sum(dim=0), wide.square().sum()[None]])

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
    """Spent on encoding and decoding; on a GPU, which works alone, with an equal share of the wait for all SAEs."""


@dataclass(frozen=True)
class EncodedRows:
    """What one pass over some rows gave."""

    n_tokens: int
    by_sae: Mapping[str, SparseColumns]
    spreads: Mapping[str, Spread]
    """By hook; empty where not asked for."""

    model_seconds: float
    """Spent on the model; on a GPU on telling it what to do."""


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
        DeviceMemoryError: memory ran out.
    """
    with memory_faults(subject.device):
        ran = _run(subject, rows, hooks, prefix)
        _check_finite(subject, ran, to_host(_finite(ran)).numpy(), name_row)
    return ran


@torch.no_grad()
def encode_rows(
    subject: Subject,
    saes: Sequence[SAE],
    rows: Rows,
    *,
    prefix: Sequence[int] = (),
    name_row: Callable[[int], str] = "row {}".format,
    measure: bool = False,
) -> EncodedRows:
    """`run_rows`, and every SAE's nonzero activations on it; only they leave the device, all at once.

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
        DeviceMemoryError: memory ran out.
    """
    started = time.perf_counter()
    hooks = list(dict.fromkeys(sae.info.hook for sae in saes))
    with memory_faults(subject.device):
        ran = _run(subject, rows, hooks, prefix)
        sums = {hook: Spread.sums(x) for hook, x in ran.by_hook.items()} if measure else {}
        model_seconds = time.perf_counter() - started
        encoded = [_encode(sae, ran.by_hook[sae.info.hook], measure=measure) for sae in saes]
        started = time.perf_counter()
        head, columns = _transfer([_finite(ran), *(e.figures for e in encoded), *sums.values()], encoded)
        _check_finite(subject, ran, head[0], name_row)
        each = (time.perf_counter() - started) / max(1, len(saes))
        by_sae: dict[str, SparseColumns] = {}
        for sae, given, figures, own in zip(saes, encoded, head[1:], columns, strict=False):
            by_sae[sae.info.sae_id] = _columns(sae, ran, given, figures, own, each)
    n_tokens = len(ran.row)
    last = head[1 + len(saes) :]
    spreads = {hook: Spread.read(n_tokens, own) for hook, own in zip(sums, last, strict=True)}
    return EncodedRows(n_tokens, by_sae, spreads, model_seconds)


@torch.no_grad()
def _run(subject: Subject, rows: Rows, hooks: Sequence[str], prefix: Sequence[int]) -> RowActivations:
    ids, mask = pad(rows, prefix)
    ran = subject.run(ids, capture=hooks, attention_mask=mask)
    lengths = np.array([len(row) for row in rows])
    row = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    position = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    chosen = None
    if ran.text_mask is not None:
        own = ran.text_mask.clone()
        own[:, : len(prefix)] = False
        # The host knows how many there are, and need not ask.
        chosen = torch.nonzero_static(own.flatten(), size=len(row)).squeeze(1)

    def tokens_of(activations: Tensor) -> Tensor:
        if chosen is None:
            return activations[:, len(prefix) :].flatten(0, 1)
        return activations.flatten(0, 1).index_select(0, chosen)

    return RowActivations(
        row, position.astype(np.int32), {hook: tokens_of(x) for hook, x in ran.activations.items()}
    )


def _finite(ran: RowActivations) -> Float[Tensor, " n_hooks"]:
    """1 for every hook whose numbers are all finite, else 0; float64, on the device."""
    return torch.stack([torch.isfinite(x).all() for x in ran.by_hook.values()]).double()


def _check_finite(
    subject: Subject,
    ran: RowActivations,
    finite: Float[np.ndarray, " n_hooks"],
    name_row: Callable[[int], str],
) -> None:
    if finite.all():
        return
    hook = list(ran.by_hook)[int(finite.argmin())]
    x = ran.by_hook[hook]
    first = int(torch.nonzero(~torch.isfinite(x.reshape(len(x), -1)).all(dim=1))[0])
    raise SubjectError(
        f"{subject.info.model_id} gives numbers that are not finite at {hook} ({name_row(int(ran.row[first]))}); "
        "run it in float32, or leave that text out"
    )


@dataclass(frozen=True)
class _Encoded:
    """One SAE on a batch, on the device."""

    acts: SparseActs
    count: Int[Tensor, " n_tokens"]
    """Nonzeros of every token that have a slot."""

    figures: Float[Tensor, " 2"]
    """Nonzeros without a slot, and the sum of squared errors (NaN: not measured); float64."""

    seconds: float


def _encode(sae: SAE, x: Float[Tensor, "n_tokens d_in"], *, measure: bool, exact: bool = False) -> _Encoded:
    started = time.perf_counter()
    slots = None if exact or x.device.type == "cpu" else _SLOTS.get(sae, sae.info.k)
    acts = sae.encode(x) if slots is None else sae.encode(x, slots)
    if measure and sae.decoder is not None:
        error = (x - sae.decode(acts).to(x.device)).square().sum(dim=1).double().sum()
    else:
        error = torch.full((), math.nan, dtype=torch.float64, device=x.device)
    missing = torch.zeros_like(error) if acts.n_missing is None else acts.n_missing.to(error)
    count = torch.zeros(acts.n_tokens, dtype=torch.int32, device=acts.token.device)
    count.index_add_(0, acts.token, (acts.value > 0).int())
    return _Encoded(acts, count, torch.stack([missing, error]), time.perf_counter() - started)


Columns = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]
"""Of one SAE, on the host: nonzeros per token; feature and value of every slot."""


def _transfer(
    figures: Sequence[Tensor], encoded: Sequence[_Encoded]
) -> tuple[list[NDArray[np.float64]], list[Columns]]:
    """Bring float64 figures and what every SAE gave to the host, in one transfer."""
    device = figures[0].device
    parts = [part.view(torch.int32) for part in figures]
    for e in encoded:
        parts += [e.count, e.acts.feature.int(), e.acts.value.view(torch.int32)]
    sent = to_host(torch.cat([part.to(device) for part in parts])).numpy()
    here = np.split(sent, np.cumsum([len(part) for part in parts])[:-1])
    head, rest = here[: len(figures)], here[len(figures) :]
    columns = [(rest[i], rest[i + 1], rest[i + 2].view(np.float32)) for i in range(0, len(rest), 3)]
    return [part.view(np.float64) for part in head], columns


def _columns(
    sae: SAE, ran: RowActivations, given: _Encoded, figures: NDArray[np.float64], own: Columns, waited: float
) -> SparseColumns:
    """What one SAE gave, its nonzeros by row and position; once more, exactly, where its slots were too few."""
    x = ran.by_hook[sae.info.hook]
    if figures[0] > 0:
        given = _encode(sae, x, measure=sae.decoder is not None and not math.isnan(figures[1]), exact=True)
        (figures,), (own,) = _transfer([given.figures], [given])
    count, feature, value = own
    if x.device.type != "cpu":
        _learn_slots(sae, count, rows_at_once(x.device, sae.info.d_sae))
    filled = value > 0
    if not filled.all():
        feature, value = feature[filled], value[filled]
    token = np.repeat(np.arange(len(count)), count)
    error = None if math.isnan(figures[1]) else float(figures[1])
    return SparseColumns(ran.row[token], ran.position[token], feature, value, error, given.seconds + waited)


def _learn_slots(sae: SAE, count: NDArray[np.int32], rows: int) -> None:
    starts = np.arange(0, len(count), rows)
    fullest = (np.add.reduceat(count, starts) / np.diff(np.append(starts, len(count)))).max()
    _SLOTS[sae] = max(_SLOTS.get(sae, 1), math.ceil(_SPARE * float(fullest)))

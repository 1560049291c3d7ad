"""The measuring core: rows of text, changes along directions, and what they do to the next-token distribution.

One clean pass keeps the residual before the hook, and the keys and values of the tokens that are never edited; every
edit runs on from there, several directions at once. Knows nothing of stores or of what the directions mean.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from safesail.domain.ids import layer_of
from safesail.errors import SubjectError
from safesail.subject.device import to_host
from safesail.subject.head import head_logits, last_hook
from safesail.subject.protocol import Intervention, ResidualState, Subject
from safesail.subject.rows import Rows

_TINY = 1e-300
"""Keeps the logarithm of an underflowing probability finite."""


@dataclass(frozen=True)
class CleanPass:
    """Rows of one length, run once without an edit."""

    subject: Subject
    hook: str
    ids: Int[Tensor, "n_rows pos"]
    n_before: int
    """First tokens of each row, which are never edited."""

    x: Float[Tensor, "n_rows edited d_in"]
    """Activations at the hook, of the tokens that may be edited."""

    state: ResidualState | None
    """None: the model cannot run on from a residual, and every edit is a whole pass."""

    _untouched: dict[int, Tensor] = field(default_factory=dict[int, Tensor], init=False, repr=False)

    @classmethod
    def run(cls, subject: Subject, hook: str, rows: Rows, n_before: int) -> "CleanPass":
        """One pass.

        Raises:
            ConfigError: a hook that the model does not have.
            SubjectError: a model without a language head.
        """
        ids = torch.tensor(np.array([list(row) for row in rows]), dtype=torch.long)
        block = _block_before(hook)
        state = None
        if block is None:
            ran = subject.run(ids, capture=[hook])
        else:
            try:
                ran = subject.run(ids, capture=[hook], keep_block=block, keep_prefix=n_before)
                state = _resumable(subject, ran.state)
            except SubjectError:  # a cache of another kind, or a hook inside a module
                ran = subject.run(ids, capture=[hook])
        return cls(subject, hook, ids, n_before, ran.activations[hook][:, n_before:], state)

    @property
    def n_edited(self) -> int:
        """Tokens of each row that may be edited."""
        return self.ids.shape[1] - self.n_before

    def untouched(self, n: int) -> Float[Tensor, "n_copies n_rows edited d_model"]:
        """What the head reads of `n` copies of the rows without a change, in a batch of the same size."""
        if n not in self._untouched:
            self._untouched[n] = self.edited(self.x.new_zeros(n, *self.x.shape))
        return self._untouched[n]

    def edited(
        self, deltas: Float[Tensor, "n_copies n_rows edited d_in"]
    ) -> Float[Tensor, "n_copies n_rows edited d_model"]:
        """What the head reads, where each copy of the rows has its own change at the hook."""
        n, last = len(deltas), last_hook(self.subject)
        added = deltas.flatten(0, 1)

        def edit(x: Tensor, positions: Tensor) -> Tensor:
            x[:, -added.shape[1] :] += added
            return x

        edits = [Intervention(self.hook, edit)]
        if self.state is not None:
            ran = self.subject.resume(self.state.repeat(n), capture=[last], interventions=edits)
        else:
            ran = self.subject.run(self.ids.repeat(n, 1), capture=[last], interventions=edits)
        return ran.activations[last][:, -self.n_edited :].unflatten(0, (n, len(self.ids)))


def _block_before(hook: str) -> int | None:
    """The last block that an edit at the hook leaves as it is; None: there is none."""
    layer = layer_of(hook)
    if layer is None or hook.endswith("hook_resid_post"):
        return layer
    return layer - 1 if layer > 0 else None


def _resumable(subject: Subject, state: ResidualState | None) -> ResidualState | None:
    """The state, where the model can go on from it."""
    assert state is not None
    try:
        subject.resume(state)
    except SubjectError:
        return None
    return state


@dataclass(frozen=True)
class Spots:
    """Tokens whose next-token distributions are read."""

    row: NDArray[np.int64]
    position: NDArray[np.int64]
    """Counted from the first edited token on."""

    fires: NDArray[np.bool_]
    """Whether the feature is edited at this token; the others follow one that is."""

    next_token: NDArray[np.int64]
    """What follows it in the text; -1: the text ends."""


@dataclass(frozen=True)
class Readout:
    """What is read of the next-token distributions."""

    spots: Spots
    sets: Mapping[str, Sequence[int]]
    """Token sets by name."""

    shifts: bool = False
    """Also the change of every token's log p."""


@dataclass(frozen=True)
class Reading:
    """What a change along one direction does, per text, averaged over its tokens; NaN: it has no such token."""

    log_odds: Mapping[str, Float[np.ndarray, " n_rows"]]
    """By token set: change of log p(set) - log(1 - p(set)) at the edited tokens, in float64."""

    kl: Float[np.ndarray, " n_rows"]
    """KL(clean || edited) at the edited tokens, nats."""

    ce_firing: Float[np.ndarray, " n_rows"]
    """Change of the cross-entropy of what follows the edited tokens."""

    ce_other: Float[np.ndarray, " n_rows"]
    """The same of the tokens between and after them."""

    shift: Float[np.ndarray, " vocabulary"] | None
    """Mean change of every token's log p at the edited tokens, where asked for."""

    p_mean: Float[np.ndarray, " vocabulary"] | None
    """Mean probability of every token there, with the edit."""


class _Distributions:
    """Next-token distributions at some spots; sums of probabilities in float64."""

    def __init__(self, logits: Float[Tensor, "n_spots vocabulary"]) -> None:
        self.logits = logits
        top = self.logits.amax(dim=1, keepdim=True)
        self.log_sum = top[:, 0].double() + (self.logits - top).double().exp_().sum(dim=1).log()

    def log_p(self, tokens: Tensor) -> Float[Tensor, "n_spots n_tokens"]:
        """Of some tokens, the same at every spot."""
        return self.logits[:, tokens].double() - self.log_sum[:, None]

    def log_odds(self, tokens: Tensor) -> Float[Tensor, " n_spots"]:
        """Of a set of tokens."""
        inside = self.log_p(tokens).exp().sum(dim=1).clamp(_TINY, 1 - 2**-53)
        return inside.log() - torch.log1p(-inside)

    def log_p_each(self, token: Tensor) -> Float[Tensor, " n_spots"]:
        """Of one token per spot."""
        return self.logits.gather(1, token[:, None])[:, 0].double() - self.log_sum

    @cached_property
    def p(self) -> Float[Tensor, "n_spots vocabulary"]:
        """Of every token."""
        return (self.logits - self.log_sum[:, None].float()).exp_()

    def shift(self, base: "_Distributions", at: Tensor) -> Float[Tensor, " vocabulary"]:
        """Change of every token's log p, averaged over the spots `at`."""
        moved = (self.logits - base.logits)[at].mean(dim=0)
        return moved - (self.log_sum - base.log_sum)[at].mean().float()


def read_directions(
    clean: CleanPass,
    coefficients: Float[Tensor, "n_rows edited"],
    directions: Float[Tensor, "n_directions d_in"],
    readout: Readout,
    *,
    batch_rows: int,
) -> Iterator[Reading]:
    """What x' = x + coefficient * direction does, for each direction; an edit that changes nothing reads 0 exactly.

    Args:
        clean: The rows.
        coefficients: Per token, in units of the directions.
        directions: Each is an edit of its own.
        readout: What is read.
        batch_rows: Rows that go through the model at once, copies included.
    """
    device = clean.x.device
    spots = readout.spots
    tokens = {name: torch.tensor(list(of), device=device) for name, of in readout.sets.items()}
    copies = min(len(directions), max(1, batch_rows // len(clean.ids)))
    base = _distributions(clean, clean.untouched(copies)[:1], spots)[0]
    for chunk in directions.split(copies):
        deltas = coefficients[None, :, :, None] * chunk[:, None, None, :]
        # As many copies every time: on some devices the batch size changes the last bits.
        padding = deltas.new_zeros(copies - len(chunk), *deltas.shape[1:])
        residuals = clean.edited(torch.cat([deltas, padding]))[: len(chunk)]
        for edited in _distributions(clean, residuals, spots):
            yield _compare(base, edited, readout, tokens, len(clean.ids))


def _distributions(clean: CleanPass, residuals: Tensor, spots: Spots) -> list[_Distributions]:
    """At the spots of each copy, the head run once for all: its weights are the largest of the model."""
    row, position = (torch.from_numpy(i).to(residuals.device) for i in (spots.row, spots.position))
    read = residuals[:, row, position]
    logits = head_logits(clean.subject, read.flatten(0, 1)).float()
    return [_Distributions(part) for part in logits.split(read.shape[1])]


def _compare(
    base: _Distributions, edited: _Distributions, readout: Readout, tokens: Mapping[str, Tensor], n_rows: int
) -> Reading:
    spots = readout.spots
    next_token = torch.from_numpy(spots.next_token).to(base.logits.device).clamp(min=0)
    figures = [edited.log_odds(of) - base.log_odds(of) for of in tokens.values()]
    moved = (base.p * (base.logits - edited.logits)).sum(dim=1).double()
    figures.append(moved - (base.log_sum - edited.log_sum))
    figures.append(base.log_p_each(next_token) - edited.log_p_each(next_token))
    per_spot = to_host(torch.stack(figures)).numpy()
    fires, known = spots.fires, spots.next_token >= 0
    at_firing = [_per_row(values, spots.row, fires, n_rows) for values in per_spot[:-1]]
    shift = p_mean = None
    if readout.shifts:
        at = torch.from_numpy(fires).to(base.logits.device)
        shift = to_host(edited.shift(base, at)).numpy()
        p_mean = to_host(edited.p[at].mean(dim=0)).numpy()
    return Reading(
        dict(zip(tokens, at_firing, strict=False)),
        at_firing[-1],
        _per_row(per_spot[-1], spots.row, fires & known, n_rows),
        # A text that is edited nowhere says nothing of the tokens behind the edit.
        np.where(np.isnan(at_firing[-1]), np.nan, _per_row(per_spot[-1], spots.row, ~fires & known, n_rows)),
        shift,
        p_mean,
    )


def _per_row(
    values: Float[np.ndarray, " n_spots"], row: NDArray[np.int64], of: NDArray[np.bool_], n_rows: int
) -> Float[np.ndarray, " n_rows"]:
    """Mean over the spots of each row; NaN where a row has none."""
    n = np.bincount(row[of], minlength=n_rows)
    total = np.bincount(row[of], weights=values[of], minlength=n_rows)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def mean_cost(
    clean: CleanPass, deltas: Float[Tensor, "n_copies n_rows edited d_in"], spots: Spots
) -> Float[np.ndarray, " n_copies"]:
    """Nats per token that each of several edits adds to the cross-entropy of the text."""
    residuals = clean.edited(torch.cat([torch.zeros_like(deltas[:1]), deltas]))
    next_token = torch.from_numpy(spots.next_token).to(residuals.device)
    losses = [-part.log_p_each(next_token).mean() for part in _distributions(clean, residuals, spots)]
    loss = to_host(torch.stack(losses)).numpy()
    return loss[1:] - loss[0]

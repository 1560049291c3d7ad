"""Windows in blocks and batches: what a run goes through, fixed before it starts.

A block is a pure function of the plan, so that a killed run goes on at the next block as if nothing had been.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from safesail.sae.encode import run_rows
from safesail.subject.protocol import Subject
from safesail.subject.rows import batches_by_length

Window = tuple[int, ...]
"""Token ids of a run of consecutive tokens of one document."""

BATCH_TOKENS = 2048
"""Tokens, padding included, of one run of the subject model."""


def shuffled(windows: Sequence[Window], seed: int) -> list[Window]:
    """All windows once, in random order."""
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed)).tolist()
    return [windows[i] for i in order]


def blocks_of(windows: Iterable[Window], block_tokens: int) -> list[list[Window]]:
    """Windows in their order, in blocks that end once they hold `block_tokens` tokens; the last may be smaller."""
    blocks: list[list[Window]] = []
    size = block_tokens
    for window in windows:
        if size >= block_tokens:
            blocks.append([])
            size = 0
        blocks[-1].append(window)
        size += len(window)
    return blocks


def block_activations(
    subject: Subject, windows: Sequence[Window], hooks: Sequence[str]
) -> dict[str, Float[Tensor, "n_tokens d_model"]]:
    """Activations on every token of `windows`, rows in the same order at each hook."""
    batches = batches_by_length([len(window) for window in windows], BATCH_TOKENS)
    ran = [run_rows(subject, [windows[i] for i in batch], hooks).by_hook for batch in batches]
    return {hook: torch.cat([by_hook[hook] for by_hook in ran]) for hook in hooks}


def shuffled_batches(
    x: Float[Tensor, "n_tokens d_in"], batch: int, passes: int, seed: int
) -> Iterator[Float[Tensor, "batch d_in"]]:
    """Random batches of `x`, each row `passes` times; what does not fill a last batch is left out."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(passes):
        order = torch.randperm(len(x), generator=generator)
        for rows in order.split(batch):
            if len(rows) == batch:
                yield x[rows]

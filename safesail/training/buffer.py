"""Texts cut into windows, windows into blocks and batches: what a run goes through, fixed before it starts.

A block is a pure function of the plan, so that a killed run goes on at the next block as if nothing had been.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from safesail.domain.records import Document
from safesail.sae.encode import run_rows
from safesail.subject.protocol import Subject
from safesail.subject.rows import batches_by_length
from safesail.text.windows import cut

Window = tuple[int, ...]
"""Token ids of a run of consecutive tokens of one document."""

_BATCH_TOKENS = 2048
"""Tokens, padding included, of one run of the subject model."""


@dataclass(frozen=True)
class Tally:
    """What was taken from one source."""

    source: str
    n_documents: int
    n_tokens: int
    sha256: str
    """Over the ids of the documents, in order: the same texts give the same digest."""


def take_windows(
    documents: Iterator[Document], tokenize: Callable[[str], list[int]], n_ctx: int, max_tokens: int
) -> tuple[list[Window], int, str]:
    """Windows of the first documents, up to `max_tokens` tokens, with the number of documents and their digest."""
    windows: list[Window] = []
    digest = hashlib.sha256()
    n_tokens = n_documents = 0
    for document in documents:
        n_documents += 1
        digest.update(f"{document.document_id}\n".encode())
        for _, window in cut(tokenize(document.text), n_ctx):
            kept = window[: max_tokens - n_tokens]
            n_tokens += len(kept)
            if kept:
                windows.append(kept)
        if n_tokens >= max_tokens:
            break
    return windows, n_documents, digest.hexdigest()


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
    batches = batches_by_length([len(window) for window in windows], _BATCH_TOKENS)
    ran = [run_rows(subject, [windows[i] for i in batch], hooks).by_hook for batch in batches]
    return {hook: torch.cat([by_hook[hook].cpu() for by_hook in ran]) for hook in hooks}


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

"""Rows of token ids as batches: grouped by length, padded on the right, and the loss of a language model on them."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from safesail.subject.protocol import Intervention, Subject

Rows = Sequence[Sequence[int] | NDArray[np.int32]]
"""Token ids of any lengths, without special tokens."""


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Indices in batches of like length, shortest first, so that little of a batch is padding.

    Args:
        lengths: Tokens of every row.
        batch_tokens: A batch's rows times its longest row stay at or under this, unless one row exceeds it.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * lengths[index] <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def pad(rows: Rows, prefix: Sequence[int] = ()) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Ids and mask (1 = token) of rows padded on the right, `prefix` before each."""
    lengths = torch.tensor([len(prefix) + len(row) for row in rows])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    ids = torch.zeros(mask.shape, dtype=torch.long)
    ids[mask] = torch.tensor([int(token) for row in rows for token in (*prefix, *row)], dtype=torch.long)
    return ids, mask.long()


def mean_loss(
    subject: Subject, rows: Rows, interventions: Sequence[Intervention] = (), *, batch_tokens: int = 512
) -> float:
    """Cross-entropy over all tokens of `rows`, nats per token, each given those before it (the first one: the BOS).

    Raises:
        ConfigError: a hook that this model does not have.
        SubjectError: a model without a language head.
    """
    total = 0.0
    for batch in batches_by_length([len(row) for row in rows], batch_tokens):
        ids, mask = pad([rows[i] for i in batch])
        logits = subject.run(ids, attention_mask=mask, logits=True, interventions=interventions).logits
        assert logits is not None
        keep = mask.bool()
        at_text = logits[:, :-1][keep.to(logits.device)].float()
        total += torch.nn.functional.cross_entropy(
            at_text, ids[keep].to(logits.device), reduction="sum"
        ).item()
    return total / sum(map(len, rows))

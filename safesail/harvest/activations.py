"""One shard through the subject model and its SAEs: tokens in, columns of nonzeros out. Touches no store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from safesail.harvest.config import HarvestConfig
from safesail.harvest.shards import Shard, batches_by_length, cut_windows, in_sample
from safesail.sae.protocol import SAE
from safesail.subject.model import SubjectModel

MANTISSA_BITS_DROPPED = 17
"""A bin is a float32 without its last 17 bits: 64 bins an octave."""

QUANTILE_ERROR = 1 / 128
"""Largest relative error of a quantile read from the bins: half a bin."""


@dataclass(frozen=True)
class Nonzeros:
    """Activations greater than zero of one SAE, in columns of one length."""

    feature: NDArray[np.int32]
    token: NDArray[np.int64]
    """Window's number within the shard * n_ctx + position."""

    value: NDArray[np.float32]


@dataclass(frozen=True)
class Bins:
    """Histogram of one SAE's nonzeros over a shard, in columns of one length."""

    feature: NDArray[np.int32]
    bin: NDArray[np.int32]
    n: NDArray[np.int64]
    total: NDArray[np.float64]
    maximum: NDArray[np.float32]


@dataclass(frozen=True)
class ShardResult:
    """Everything the store keeps of a shard, all of it determined by model, SAEs, documents and settings."""

    shard: Shard
    window_document: list[int]
    """Number of each window's document within the shard."""

    window_start: list[int]
    window_ids: list[tuple[int, ...]]
    window_tokens: list[tuple[str, ...]]
    whole: list[bool]
    """Per document: every feature's nonzeros are kept."""

    nonzeros: dict[str, Nonzeros]
    """Kept nonzeros by sae_id."""

    bins: dict[str, Bins]
    """Histograms over all nonzeros, kept or not, by sae_id."""


def run_shard(
    subject: SubjectModel,
    saes: Sequence[SAE],
    shard: Shard,
    config: HarvestConfig,
    keep: Mapping[str, NDArray[np.bool_]] | None = None,
) -> ShardResult:
    """Run the subject model once over a shard and encode every hook with every SAE on it.

    Args:
        subject: The subject model.
        saes: SAEs of that model, at any of its hooks.
        shard: Documents.
        config: Settings of the harvest.
        keep: By sae_id, which features' nonzeros are kept, length d_sae; None keeps all.
    """
    windows = cut_windows(shard, config.n_ctx)
    number = {d.document.document_id: i for i, d in enumerate(shard.documents)}
    parts: dict[str, list[Nonzeros]] = {sae.info.sae_id: [] for sae in saes}
    for batch in batches_by_length([len(ids) for _, _, ids in windows], config.batch_tokens):
        rows = [windows[i][2] for i in batch]
        for sae_id, nonzeros in _encode_batch(subject, saes, rows, np.array(batch), config.n_ctx).items():
            parts[sae_id].append(nonzeros)
    whole = [in_sample(d.document.document_id, config.whole_documents, config.seed) for d in shard.documents]
    documents = [number[d.document.document_id] for d, _, _ in windows]
    kept_windows = np.array([whole[d] for d in documents], dtype=bool)
    joined = {sae_id: _join(batches) for sae_id, batches in parts.items()}
    return ShardResult(
        shard=shard,
        window_document=documents,
        window_start=[start for _, start, _ in windows],
        window_ids=[ids for _, _, ids in windows],
        window_tokens=[subject.token_strings(list(ids)) for _, _, ids in windows],
        whole=whole,
        nonzeros={
            sae_id: n if keep is None else _keep(n, keep[sae_id], kept_windows, config.n_ctx)
            for sae_id, n in joined.items()
        },
        bins={sae_id: histogram(n) for sae_id, n in joined.items()},
    )


def histogram(nonzeros: Nonzeros) -> Bins:
    """Count nonzeros per feature and bin of value; histograms of two shards add up to that of both."""
    bins = bin_of(nonzeros.value)
    key = nonzeros.feature.astype(np.int64) << 32 | bins.astype(np.int64)
    keys, inverse = np.unique(key, return_inverse=True)
    maximum = np.zeros(len(keys), dtype=np.float32)
    np.maximum.at(maximum, inverse, nonzeros.value)
    return Bins(
        feature=(keys >> 32).astype(np.int32),
        bin=(keys & 0xFFFFFFFF).astype(np.int32),
        n=np.bincount(inverse, minlength=len(keys)).astype(np.int64),
        total=np.bincount(inverse, weights=nonzeros.value, minlength=len(keys)).astype(np.float64),
        maximum=maximum,
    )


def bin_of(value: NDArray[np.float32]) -> NDArray[np.int32]:
    """Bin of each positive value; bins are ordered as the values are."""
    return (np.ascontiguousarray(value).view(np.int32) >> MANTISSA_BITS_DROPPED).astype(np.int32)


def bin_middle(bins: NDArray[np.int32]) -> NDArray[np.float32]:
    """Value in the middle of each bin."""
    return ((bins.astype(np.int32) << MANTISSA_BITS_DROPPED) | (1 << (MANTISSA_BITS_DROPPED - 1))).view(
        np.float32
    )


def _encode_batch(
    subject: SubjectModel,
    saes: Sequence[SAE],
    rows: list[tuple[int, ...]],
    window: NDArray[np.int64],
    n_ctx: int,
) -> dict[str, Nonzeros]:
    """Nonzeros of one batch; only they leave the device."""
    lengths = np.array([len(row) for row in rows])
    padded = torch.zeros((len(rows), int(lengths.max())), dtype=torch.int64)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = torch.tensor(row)
    mask = torch.arange(padded.shape[1])[None, :] < torch.from_numpy(lengths)[:, None]
    row_of, position = (index.numpy() for index in torch.nonzero(mask, as_tuple=True))
    token_of = window[row_of] * n_ctx + position
    acts = subject.capture(
        padded, sorted({sae.info.hook for sae in saes}), attention_mask=mask.to(torch.int64)
    )
    found: dict[str, Nonzeros] = {}
    for sae in saes:
        hidden = acts[sae.info.hook]
        sparse = sae.encode(hidden[mask.to(hidden.device)])
        token = sparse.token.cpu().numpy()
        found[sae.info.sae_id] = Nonzeros(
            feature=sparse.feature.cpu().numpy().astype(np.int32),
            token=token_of[token],
            value=sparse.value.cpu().numpy().astype(np.float32),
        )
    return found


def _join(parts: list[Nonzeros]) -> Nonzeros:
    """All batches in one, in the order of feature and token, so that the batches leave no trace."""
    feature = np.concatenate([p.feature for p in parts])
    token = np.concatenate([p.token for p in parts])
    value = np.concatenate([p.value for p in parts])
    order = np.lexsort((token, feature))
    return Nonzeros(feature[order], token[order], value[order])


def _keep(n: Nonzeros, features: NDArray[np.bool_], windows: NDArray[np.bool_], n_ctx: int) -> Nonzeros:
    kept = features[n.feature] | windows[n.token // n_ctx]
    return Nonzeros(n.feature[kept], n.token[kept], n.value[kept])

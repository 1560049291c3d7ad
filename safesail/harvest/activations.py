"""One shard through the subject model and its SAEs: tokens in, columns of nonzeros out. Touches no store."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from safesail.harvest.config import HarvestConfig
from safesail.harvest.shards import Shard, WindowCut, cut_windows, in_sample
from safesail.harvest.template import opening
from safesail.sae.encode import encode_rows
from safesail.sae.protocol import SAE
from safesail.subject.protocol import Subject
from safesail.subject.rows import batches_by_length
from safesail.subject.workers import BatchWorkers

MANTISSA_BITS_DROPPED = 17
"""A bin is a float32 without its last 17 bits: 64 bins per octave, and a quantile read from bins is within 1/128."""


@dataclass(frozen=True)
class Nonzeros:
    """Activations greater than zero of one SAE, in columns of one length."""

    feature: NDArray[np.int32]
    token: NDArray[np.int64]
    """Window's number within the shard * n_ctx + position."""

    value: NDArray[np.float32]


@dataclass(frozen=True)
class Bins:
    """Histogram of one SAE's nonzeros over a shard, in columns of one length; sorted by feature, then bin."""

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


@dataclass(frozen=True)
class StartedShard:
    """A shard whose batches run."""

    shard: Shard
    windows: list[WindowCut]
    batches: list[Future[dict[str, Nonzeros]]]
    """Nonzeros of every batch by sae_id."""


def start_shard(
    subject: Subject, saes: Sequence[SAE], shard: Shard, config: HarvestConfig, streams: BatchWorkers
) -> StartedShard:
    """Have the subject model run once over a shard, and every SAE encode what stands at its hook."""
    assert config.batch_tokens != "auto", "the harvest has put a number in its place"
    windows = cut_windows(shard, config.n_ctx)
    before = len(chat_prefix(subject, config))
    lengths = [before + len(w.token_ids) for w in windows]
    batches = [
        streams.submit(_encode_batch, subject, saes, [windows[i] for i in batch], np.array(batch), config)
        for batch in reversed(
            batches_by_length(lengths, config.batch_tokens // streams.n)
        )  # the largest first
    ]
    return StartedShard(shard, windows, batches)


def finish_shard(
    subject: Subject,
    started: StartedShard,
    config: HarvestConfig,
    keep: Mapping[str, NDArray[np.bool_]] | None = None,
) -> ShardResult:
    """Wait for a shard's batches, and bring what they found into one order.

    Args:
        subject: The subject model.
        started: A shard that `start_shard` started; it is used up.
        config: Settings of the harvest.
        keep: By sae_id, which features' nonzeros are kept, length d_sae; None keeps all.

    Raises:
        SubjectError: the subject model gives numbers that are not finite.
    """
    shard, windows = started.shard, started.windows
    number = {d.document.document_id: i for i, d in enumerate(shard.documents)}
    whole = [in_sample(d.document.document_id, config.whole_documents, config.seed) for d in shard.documents]
    documents = [number[w.document.document.document_id] for w in windows]
    kept_windows = np.array([whole[d] for d in documents], dtype=bool)
    parts: dict[str, list[Nonzeros]] = {}
    while started.batches:  # a batch's own are dropped once they are taken
        for sae_id, nonzeros in started.batches.pop(0).result().items():
            parts.setdefault(sae_id, []).append(nonzeros)
    joined = {sae_id: _join(of_sae) for sae_id, of_sae in parts.items()}
    return ShardResult(
        shard=shard,
        window_document=documents,
        window_start=[w.start for w in windows],
        window_ids=[w.token_ids for w in windows],
        window_tokens=_spell(subject, windows),
        whole=whole,
        nonzeros={
            sae_id: n if keep is None else _keep(n, keep[sae_id], kept_windows, config.n_ctx)
            for sae_id, n in joined.items()
        },
        bins={sae_id: histogram(n) for sae_id, n in joined.items()},
    )


def chat_prefix(subject: Subject, config: HarvestConfig) -> tuple[int, ...]:
    """Tokens that stand before every window, after the BOS; they never count as activity.

    Raises:
        ConfigError: a chat template was asked for, and the model has none.
    """
    return opening(subject.tokenizer, special=subject.prefix) if config.chat_template else ()


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


def _spell(subject: Subject, windows: Sequence[WindowCut]) -> list[tuple[str, ...]]:
    """Token strings of every window; each token of the vocabulary is spelled once."""
    used = sorted({token_id for w in windows for token_id in w.token_ids})
    string = dict(zip(used, subject.token_strings(used), strict=True))
    return [tuple(string[token_id] for token_id in w.token_ids) for w in windows]


def _encode_batch(
    subject: Subject,
    saes: Sequence[SAE],
    batch: Sequence[WindowCut],
    numbers: NDArray[np.int64],
    config: HarvestConfig,
) -> dict[str, Nonzeros]:
    """Nonzeros of one batch, whose windows have these numbers in the shard."""

    def name_row(row: int) -> str:
        document = batch[row].document.document
        return f"document {document.document_id} of {document.source}"

    prefix = chat_prefix(subject, config)
    encoded = encode_rows(subject, saes, [w.token_ids for w in batch], prefix=prefix, name_row=name_row)
    return {
        sae_id: Nonzeros(acts.feature, numbers[acts.row] * config.n_ctx + acts.position, acts.value)
        for sae_id, acts in encoded.by_sae.items()
    }


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

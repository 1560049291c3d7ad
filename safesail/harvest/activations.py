"""One shard through the subject model and its SAEs: tokens in, columns of nonzeros out. Touches no store."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from safesail.harvest.config import HarvestConfig
from safesail.harvest.shards import Shard, Window, in_sample
from safesail.harvest.template import chat_prefix
from safesail.metrics.quantiles import bin_of, bin_start
from safesail.sae.encode import encode_rows
from safesail.sae.protocol import SAE
from safesail.subject.protocol import Subject
from safesail.subject.rows import batches_by_length
from safesail.subject.workers import BatchWorkers

BIN_BITS = 6
"""Bits of the mantissa that a bin keeps: 64 bins an octave, a quantile's relative error at most 1/128."""


@dataclass(frozen=True)
class Nonzeros:
    """Activations greater than zero of one SAE, in columns of one length."""

    feature: NDArray[np.int32]
    token: NDArray[np.int64]
    """Window's number within the harvest * n_ctx + position in the window."""

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
    windows: list[Window]
    window_tokens: list[tuple[str, ...]]
    """Per window: its token strings."""

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
    windows: list[Window]
    batches: list[Future[dict[str, Nonzeros]]]
    """Nonzeros of every batch by sae_id."""


def start_shard(
    subject: Subject, saes: Sequence[SAE], shard: Shard, config: HarvestConfig, workers: BatchWorkers
) -> StartedShard:
    """Have the subject model run once over a shard, and every SAE encode the activations at its hook."""
    assert config.batch_tokens != "auto", "the harvest has put a number in its place"
    windows = shard.windows(config.n_ctx)
    prefix = chat_prefix(subject, config)
    lengths = [len(prefix) + len(w.token_ids) for w in windows]
    batches = batches_by_length(lengths, config.batch_tokens // workers.n)
    # The largest first: what is left for the last worker to wait for is short.
    running = [
        workers.submit(encode_batch, subject, saes, [windows[i] for i in batch], prefix, config.n_ctx)
        for batch in reversed(batches)
    ]
    return StartedShard(shard, windows, running)


def encode_batch(
    subject: Subject, saes: Sequence[SAE], windows: Sequence[Window], prefix: Sequence[int], n_ctx: int
) -> dict[str, Nonzeros]:
    """Nonzeros of some windows by sae_id, their tokens numbered through the harvest.

    Raises:
        SubjectError: the subject model gives numbers that are not finite.
    """
    encoded = encode_rows(
        subject,
        saes,
        [w.token_ids for w in windows],
        prefix=prefix,
        name_row=lambda i: f"document {windows[i].document.document_id} of {windows[i].document.source}",
    )
    first_token = np.array([w.window_id for w in windows], dtype=np.int64) * n_ctx
    return {
        sae_id: Nonzeros(c.feature, first_token[c.row] + c.position, c.value)
        for sae_id, c in encoded.by_sae.items()
    }


def finish_shard(
    subject: Subject,
    started: StartedShard,
    config: HarvestConfig,
    keep: Mapping[str, NDArray[np.bool_]] | None = None,
) -> ShardResult:
    """Wait for a shard's batches, and bring their nonzeros into one order.

    Args:
        subject: The subject model.
        started: A shard that `start_shard` started; it is used up.
        config: Settings of the harvest.
        keep: By sae_id, which features' nonzeros are kept, length d_sae; None keeps all.

    Raises:
        SubjectError: the subject model gives numbers that are not finite.
    """
    shard, windows = started.shard, started.windows
    whole = {
        d.document.document_id: in_sample(d.document.document_id, config.whole_documents, config.seed)
        for d in shard.documents
    }
    in_whole = np.array([whole[w.document.document_id] for w in windows], dtype=bool)
    parts: dict[str, list[Nonzeros]] = defaultdict(list)
    while started.batches:  # each is given up once its nonzeros are taken
        for sae_id, nonzeros in started.batches.pop(0).result().items():
            parts[sae_id].append(nonzeros)
    joined = {sae_id: _join(of_sae) for sae_id, of_sae in parts.items()}
    bins = {sae_id: histogram(n) for sae_id, n in joined.items()}
    for sae_id, features in (keep or {}).items():
        n = joined[sae_id]
        kept = features[n.feature] | in_whole[n.token // config.n_ctx - shard.first_window]
        joined[sae_id] = Nonzeros(n.feature[kept], n.token[kept], n.value[kept])
    return ShardResult(shard, windows, _spell(subject, windows), list(whole.values()), joined, bins)


def histogram(nonzeros: Nonzeros) -> Bins:
    """Count nonzeros per feature and bin of value; histograms of two shards add up to that of both."""
    key = nonzeros.feature.astype(np.int64) << 32 | bin_of(nonzeros.value, BIN_BITS).astype(np.int64)
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


def bin_middle(bins: NDArray[np.int32]) -> NDArray[np.float32]:
    """Value in the middle of each bin."""
    return bin_start(2 * bins + 1, BIN_BITS + 1)


def _spell(subject: Subject, windows: Sequence[Window]) -> list[tuple[str, ...]]:
    """Token strings of every window; each token of the vocabulary is spelled once."""
    used = sorted({token_id for w in windows for token_id in w.token_ids})
    string = dict(zip(used, subject.token_strings(used), strict=True))
    return [tuple(string[token_id] for token_id in w.token_ids) for w in windows]


def _join(parts: Sequence[Nonzeros]) -> Nonzeros:
    """All batches in one, in the order of feature and token, so that the batches leave no trace."""
    feature = np.concatenate([p.feature for p in parts])
    token = np.concatenate([p.token for p in parts])
    value = np.concatenate([p.value for p in parts])
    order = np.lexsort((token, feature))
    return Nonzeros(feature[order], token[order], value[order])

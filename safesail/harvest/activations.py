"""One shard through the subject model and its SAEs: tokens in, columns of nonzeros out. Touches no store."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from safesail.errors import SubjectError
from safesail.harvest.config import HarvestConfig
from safesail.harvest.shards import Shard, WindowCut, batches_by_length, cut_windows, in_sample
from safesail.harvest.template import opening
from safesail.sae.protocol import SAE
from safesail.subject.model import SubjectModel
from safesail.subject.workers import BatchWorkers

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
    batches: list[list[int]]
    """Numbers of the windows of every batch."""

    found: list[Future[dict[str, Nonzeros]]]
    """Nonzeros of every batch by sae_id, their tokens numbered through its windows."""


def start_shard(
    subject: SubjectModel, saes: Sequence[SAE], shard: Shard, config: HarvestConfig, streams: BatchWorkers
) -> StartedShard:
    """Have the subject model run once over a shard, and every SAE encode what stands at its hook."""
    assert config.batch_tokens != "auto", "the harvest has put a number in its place"
    windows = cut_windows(shard, config.n_ctx)
    before = opening_of(subject, config)
    lengths = [len(before) + len(w.token_ids) for w in windows]
    batches = batches_by_length(lengths, config.batch_tokens // streams.n)
    found = [
        streams.submit(_encode_batch, subject, saes, [windows[i] for i in batch], before) for batch in batches
    ]
    return StartedShard(shard, windows, batches, found)


def finish_shard(
    subject: SubjectModel,
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
    joined = {sae_id: _join(parts) for sae_id, parts in _parts(started, config.n_ctx).items()}
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


def _parts(started: StartedShard, n_ctx: int) -> dict[str, list[Nonzeros]]:
    """Nonzeros of every batch by sae_id, their tokens numbered through the shard; the batches' own are dropped."""
    parts: dict[str, list[Nonzeros]] = {}
    for batch in started.batches:
        for sae_id, nonzeros in started.found.pop(0).result().items():
            parts.setdefault(sae_id, []).append(_place(nonzeros, np.array(batch), n_ctx))
    return parts


def opening_of(subject: SubjectModel, config: HarvestConfig) -> tuple[int, ...]:
    """Tokens that stand before every window, after the BOS; they never count as activity.

    Raises:
        ConfigError: a chat template was asked for, and the model has none.
    """
    return opening(subject.tokenizer, bos_id=subject.bos_id) if config.chat_template else ()


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


def _spell(subject: SubjectModel, windows: Sequence[WindowCut]) -> list[tuple[str, ...]]:
    """Token strings of every window; each token of the vocabulary is spelled once."""
    used = sorted({token_id for w in windows for token_id in w.token_ids})
    string = dict(zip(used, subject.token_strings(used), strict=True))
    return [tuple(string[token_id] for token_id in w.token_ids) for w in windows]


def _encode_batch(
    subject: SubjectModel, saes: Sequence[SAE], windows: Sequence[WindowCut], before: tuple[int, ...]
) -> dict[str, Nonzeros]:
    """Nonzeros of one batch, their tokens numbered through its windows; only they leave the device."""
    lengths = torch.tensor([len(before) + len(w.token_ids) for w in windows])
    padded = torch.zeros((len(windows), int(lengths.max())), dtype=torch.int64)
    for row, window in zip(padded, windows, strict=True):
        row[: len(before) + len(window.token_ids)] = torch.tensor([*before, *window.token_ids])
    seen = torch.arange(padded.shape[1])[None, :] < lengths[:, None]
    acts = subject.capture(
        padded, sorted({sae.info.hook for sae in saes}), attention_mask=seen.to(torch.int64)
    )
    text = seen.clone()
    text[:, : len(before)] = False
    hidden = {hook: values[text.to(values.device)] for hook, values in acts.items()}
    for hook, values in hidden.items():
        _check_finite(subject, hook, values, windows)
    found: dict[str, Nonzeros] = {}
    for sae in saes:
        sparse = sae.encode(hidden[sae.info.hook])
        found[sae.info.sae_id] = Nonzeros(
            feature=sparse.feature.cpu().numpy().astype(np.int32),
            token=_token_numbers(windows)[sparse.token.cpu().numpy()],
            value=sparse.value.cpu().numpy().astype(np.float32),
        )
    return found


def _token_numbers(windows: Sequence[WindowCut]) -> NDArray[np.int64]:
    """Of every token of a batch: number of its window in the batch << 32 | position in the window."""
    return np.concatenate(
        [np.arange(len(w.token_ids), dtype=np.int64) | i << 32 for i, w in enumerate(windows)]
    )


def _place(nonzeros: Nonzeros, batch: NDArray[np.int64], n_ctx: int) -> Nonzeros:
    """Token numbers of the batch to those of the shard, where window i of the batch is `batch[i]`."""
    token = batch[nonzeros.token >> 32] * n_ctx + (nonzeros.token & 0xFFFFFFFF)
    return Nonzeros(nonzeros.feature, token, nonzeros.value)


def _check_finite(
    subject: SubjectModel, hook: str, values: Float[Tensor, "n_tokens d_model"], windows: Sequence[WindowCut]
) -> None:
    finite = torch.isfinite(values).all(dim=1)
    if bool(finite.all()):
        return
    first = int(torch.nonzero(~finite)[0])
    document = windows[int(_token_numbers(windows)[first] >> 32)].document.document
    raise SubjectError(
        f"{subject.info.model_id} gives numbers that are not finite at {hook} (document {document.document_id} of "
        f"{document.source}); run it in float32, or leave that text out"
    )


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

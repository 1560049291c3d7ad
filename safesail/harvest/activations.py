"""One shard through the subject model and its SAEs: tokens in, sorted nonzeros out. Touches no store."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from safesail.harvest.config import HarvestConfig
from safesail.harvest.shards import Shard, Window, in_sample
from safesail.harvest.template import chat_prefix
from safesail.sae.encode import encode_rows
from safesail.sae.protocol import SAE
from safesail.store.histogram import Histogram
from safesail.store.runs import Run
from safesail.subject.protocol import Subject
from safesail.subject.rows import batches_by_length
from safesail.subject.workers import BatchWorkers


@dataclass(frozen=True)
class Nonzeros:
    """Activations greater than zero of one SAE on a batch, in columns of one length."""

    feature: NDArray[np.int32]
    slot: NDArray[np.int64]
    """Window's number within the shard * n_ctx + position in the window."""

    value: NDArray[np.float32]


@dataclass(frozen=True)
class ShardResult:
    """Everything the store keeps of a shard, all of it determined by model, SAEs, documents and settings."""

    shard: Shard
    windows: list[Window]
    window_tokens: list[tuple[str, ...]]
    """Per window: its token strings."""

    whole: list[bool]
    """Per document: every feature's nonzeros are kept."""

    nonzeros: dict[str, Run]
    """Kept nonzeros by sae_id."""

    dropped: dict[str, Histogram]
    """Histograms of the others by sae_id; empty where all are kept."""


@dataclass(frozen=True)
class StartedShard:
    """A shard whose batches run."""

    shard: Shard
    windows: list[Window]
    batches: list[Future[dict[str, Nonzeros]]]
    """Nonzeros of every batch by sae_id."""

    d_sae: Mapping[str, int]
    """By sae_id."""


def start_shard(
    subject: Subject, saes: Sequence[SAE], shard: Shard, config: HarvestConfig, workers: BatchWorkers
) -> StartedShard:
    """Have the subject model run once over a shard, and every SAE encode the activations at its hook."""
    assert isinstance(config.batch_tokens, int), "the harvest has put a number in its place"
    windows = shard.windows(config.n_ctx)
    prefix = chat_prefix(subject, config)
    lengths = [len(prefix) + len(w.token_ids) for w in windows]
    batches = batches_by_length(lengths, config.batch_tokens // workers.n)
    # The largest first: what is left for the last worker to wait for is short.
    running = [
        workers.submit(
            encode_batch, subject, saes, [windows[i] for i in batch], prefix, np.array(batch) * config.n_ctx
        )
        for batch in reversed(batches)
    ]
    return StartedShard(shard, windows, running, {sae.info.sae_id: sae.info.d_sae for sae in saes})


def encode_batch(
    subject: Subject,
    saes: Sequence[SAE],
    windows: Sequence[Window],
    prefix: Sequence[int],
    first_slots: NDArray[np.int64],
) -> dict[str, Nonzeros]:
    """Nonzeros of some windows by sae_id.

    Args:
        subject: The subject model.
        saes: SAEs that read its hooks.
        windows: What to run.
        prefix: Tokens before every window.
        first_slots: Per window: the slot of its first token in the shard.

    Raises:
        SubjectError: the subject model gives numbers that are not finite.
        DeviceMemoryError: memory ran out.
    """
    encoded = encode_rows(
        subject,
        saes,
        [w.token_ids for w in windows],
        prefix=prefix,
        name_row=lambda i: f"document {windows[i].document.document_id} of {windows[i].document.source}",
    )
    return {
        sae_id: Nonzeros(c.feature, first_slots[c.row] + c.position, c.value)
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
        DeviceMemoryError: memory ran out.
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
    runs: dict[str, Run] = {}
    dropped: dict[str, Histogram] = {}
    for sae_id in list(parts):
        n, d_sae = _join(parts.pop(sae_id)), started.d_sae[sae_id]
        if keep is not None:
            kept = keep[sae_id][n.feature] | in_whole[n.slot // config.n_ctx]
            dropped[sae_id] = Histogram.of(n.feature[~kept], n.value[~kept], d_sae)
            n = Nonzeros(n.feature[kept], n.slot[kept], n.value[kept])
        runs[sae_id] = Run.of(n.feature, n.slot, n.value, d_sae=d_sae, n_slots=len(windows) * config.n_ctx)
    return ShardResult(shard, windows, _spell(subject, windows), list(whole.values()), runs, dropped)


def _spell(subject: Subject, windows: Sequence[Window]) -> list[tuple[str, ...]]:
    """Token strings of every window; each token of the vocabulary is spelled once."""
    used = sorted({token_id for w in windows for token_id in w.token_ids})
    string = dict(zip(used, subject.token_strings(used), strict=True))
    return [tuple(string[token_id] for token_id in w.token_ids) for w in windows]


def _join(parts: Sequence[Nonzeros]) -> Nonzeros:
    return Nonzeros(
        np.concatenate([p.feature for p in parts]),
        np.concatenate([p.slot for p in parts]),
        np.concatenate([p.value for p in parts]),
    )

"""How large batches and shards are: by default what fits the device, by arithmetic; `auto` measures what is fastest."""

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

import numpy as np

from safesail.domain.records import LoadedSubject, SaeInfo
from safesail.errors import DeviceMemoryError
from safesail.harvest.config import HarvestConfig
from safesail.harvest.template import chat_prefix
from safesail.sae.encode import encode_rows
from safesail.sae.protocol import DENSE_BYTES, SAE
from safesail.subject.device import host_memory, memory_free, memory_peak, memory_total
from safesail.subject.protocol import Subject
from safesail.subject.workers import AT_ONCE, open_workers

SMALLEST = 512
LARGEST = 1 << 18
SPEEDUP = 1.1
"""A batch twice as large must be this many times as fast per token, or the smaller one is taken."""

_SHARE = 0.8


CPU_BATCH_TOKENS = 2_048
"""On a CPU, whose cores gain nothing from larger ones."""

SHARD_TOKENS = 8_192
"""Tokens of a shard on a CPU: some seconds of work."""

_GPU_SHARD_TOKENS = 65_536
_MODEL_NUMBERS = 24
"""Numbers per token and d_model that a block of the model holds at once: the residual, attention, an MLP four times as
wide, twice."""

_USUAL_L0 = 128
"""Nonzeros per token of an SAE that does not fix them."""

_SLOT_BYTES, _HOST_BYTES = 28, 40
"""Per nonzero: on the device while a batch is packed, on the host while one shard is sorted and another stored."""


def batch_tokens_of(config: HarvestConfig, subject: Subject, saes: Sequence[SAE]) -> int:
    """The batch size that the settings mean for this model on its device."""
    row_tokens = len(chat_prefix(subject, config)) + config.n_ctx
    if isinstance(config.batch_tokens, int):
        return config.batch_tokens
    if config.batch_tokens == "auto":
        most = max(config.shard_tokens or SHARD_TOKENS, row_tokens)
        return find_batch_tokens(subject, saes, row_tokens, memory_gb=config.memory_gb, most=most)
    if subject.device == "cpu":
        return CPU_BATCH_TOKENS
    free = memory_free(subject.device) if config.memory_gb is None else config.memory_gb * 1e9
    return fitting_batch_tokens(subject.info, [sae.info for sae in saes], free)


def fitting_batch_tokens(model: LoadedSubject, saes: Sequence[SaeInfo], free: float) -> int:
    """Tokens per batch, a power of 2: the batches that a GPU has at once fit into four fifths of its free bytes.

    By arithmetic, not measured: activations of the model and at every hook, slots of every SAE, dense rows.
    """
    size = 2 if model.dtype in ("bfloat16", "float16") else 4
    hooks = {sae.hook: sae.d_in for sae in saes}
    per_token = (
        _MODEL_NUMBERS * model.d_model * size
        + 3 * 4 * sum(hooks.values())  # as captured, gathered, and centred by an SAE
        + _SLOT_BYTES * sum(sae.k or _USUAL_L0 for sae in saes)
    )
    room = (_SHARE * free - 3 * DENSE_BYTES) / (AT_ONCE * per_token)
    return 1 << int(np.clip(np.log2(max(room, 1)), np.log2(SMALLEST), 16))


def fitting_shard_tokens(device: str, saes: Sequence[SaeInfo]) -> int:
    """Tokens per shard: 8,192 on a CPU; on a GPU up to 65,536, that a quarter of the host's memory holds."""
    if device == "cpu":
        return SHARD_TOKENS
    per_token = _HOST_BYTES * sum(sae.k or _USUAL_L0 for sae in saes)
    return 1 << int(np.clip(np.log2(host_memory() / 4 / per_token), 13, np.log2(_GPU_SHARD_TOKENS)))


def find_batch_tokens(
    subject: Subject, saes: Sequence[SAE], row_tokens: int, *, memory_gb: float | None, most: int
) -> int:
    """Tokens a batch should hold: doubled while that is faster and the next doubling fits into memory.

    Args:
        subject: The subject model.
        saes: SAEs that read its hooks.
        row_tokens: Tokens of the longest row.
        memory_gb: Limit in 10^9 bytes; None: four fifths of what the machine or GPU has.
        most: No batch is larger than this, except that it holds one row.
    """
    limit = _SHARE * memory_total(subject.device) if memory_gb is None else memory_gb * 1e9

    def run_one(batch_tokens: int) -> None:
        encode_rows(subject, saes, [[0] * row_tokens] * max(1, batch_tokens // row_tokens))

    def run(batch_tokens: int) -> None:
        with open_workers(subject.device, batch_tokens) as workers:
            running = [workers.submit(run_one, batch_tokens // workers.n) for _ in range(workers.n)]
            for one in running:
                one.result()

    run(row_tokens)  # first calls set up what later ones reuse
    return search(run, partial(memory_peak, subject.device), limit=limit, most=min(most, LARGEST))


def search(
    run: Callable[[int], None],
    used: Callable[[], int],
    *,
    limit: float,
    most: int,
    clock: Callable[[], float] = perf_counter,
) -> int:
    """Double the batch while the next doubling fits and pays.

    Args:
        run: Runs one batch of so many tokens; DeviceMemoryError says that memory ran out.
        used: Most bytes that were ever in use.
        limit: In bytes.
        most: No batch is larger than this, unless it is below `SMALLEST`.
        clock: Seconds.
    """
    best, best_speed = SMALLEST, 0.0
    size = SMALLEST
    while size <= max(most, SMALLEST):
        before, start = used(), clock()
        try:
            run(size)
        except DeviceMemoryError:
            return best
        speed = size / (clock() - start)
        if used() > limit or speed < SPEEDUP * best_speed:
            return best
        best, best_speed = size, speed
        if used() + 2 * (used() - before) > limit:
            return best
        size *= 2
    return best

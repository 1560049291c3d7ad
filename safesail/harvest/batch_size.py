"""Finding the batch size that is fastest within a memory limit."""

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

from safesail.errors import DeviceMemoryError
from safesail.sae.encode import encode_rows
from safesail.sae.protocol import SAE
from safesail.subject.device import memory_peak, memory_total
from safesail.subject.protocol import Subject
from safesail.subject.workers import open_workers

SMALLEST = 512
LARGEST = 1 << 18
SPEEDUP = 1.1
"""A batch twice as large must be this many times as fast per token, or the smaller one is taken."""

_SHARE = 0.8


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

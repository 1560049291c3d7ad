"""Batches that run at once: on a CPU each on cores of its own, which no batch of many threads keeps as busy."""

from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

TOKENS_PER_WORKER = 512
"""A batch of fewer tokens does not keep a core busy."""

AT_ONCE = 2
"""Batches under way on a GPU: it has the next one before the host has read what the last one gave."""


@dataclass(frozen=True)
class BatchWorkers:
    """Threads, each of which runs one batch at a time."""

    n: int
    _pool: ThreadPoolExecutor

    def submit(self, run: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run in the next stream that is free; those submitted first begin first."""
        return self._pool.submit(run, *args, **kwargs)


@contextmanager
def open_workers(device: str, tokens_at_once: int) -> Generator[BatchWorkers, None, None]:
    """BatchWorkers that share the CPU threads torch may use here; what has not begun is dropped at the end.

    Args:
        device: torch device. Streams of a CPU share a batch; a GPU takes each batch whole.
        tokens_at_once: Tokens in all streams together: few tokens make few streams.
    """
    threads = torch.get_num_threads()
    n = max(1, min(threads, tokens_at_once // TOKENS_PER_WORKER)) if device == "cpu" else 1
    pool = ThreadPoolExecutor(
        n if device == "cpu" else AT_ONCE,
        "stream",
        initializer=torch.set_num_threads,
        initargs=(max(1, threads // n),),
    )
    try:
        yield BatchWorkers(n, pool)
    finally:
        pool.shutdown(cancel_futures=True)

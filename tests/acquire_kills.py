"""Downloads in a process of their own, killed at random moments and started again."""

import multiprocessing
import os
import random
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from safesail.store.connection import open_reader
from safesail.store.sql import rows

TABLES = {
    "saes": "SELECT * EXCLUDE (sae_key) FROM saes",
    "features": "FROM features",
    "explanations": "SELECT * EXCLUDE (ordinal) FROM explanations",
    "windows": "SELECT document_id, split, tokens FROM windows",
    "exemplars": 'SELECT sae_id, "index", maximum, tokens, positions, activations FROM exemplars',
    "imports": "SELECT name, format, sha256 FROM imports",
}


def contents(store: Path) -> dict[str, list[Any]]:
    """What a download leaves in a store, without numbers that only say when."""
    with open_reader(store) as db:
        return {name: rows(db, f"SELECT * FROM ({sql}) ORDER BY ALL") for name, sql in TABLES.items()}


def acquire_alone(order: dict[str, Any], kill_after: float | None = None) -> tuple[float, int] | None:
    """Download in a process of its own.

    Returns:
        Seconds, and the largest memory in KiB; None where it was killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["safesail.catalog.acquire"])
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_acquire, args=(order, there))
    process.start()
    there.close()
    assert here.recv() == "begun"
    if kill_after is not None:
        process.join(kill_after)
        if process.is_alive():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
    process.join()
    if process.exitcode == -signal.SIGKILL:
        return None
    assert process.exitcode == 0, "the download did not end as it should"
    return here.recv()


def kill_and_resume(order: dict[str, Any], seconds: float, n_kills: int, seed: int) -> int:
    """Download with `n_kills` kills, evenly over the time that it takes; returns how many fell while it ran."""
    draw = random.Random(seed)
    return sum(acquire_alone(order, draw.uniform(0, seconds)) is None for _ in range(n_kills))


def _acquire(order: dict[str, Any], out: Connection) -> None:
    import resource

    from safesail.catalog.acquire import Order, acquire

    os.environ["SAFESAIL_CACHE"] = order.pop("cache")
    out.send("begun")
    began = time.monotonic()
    acquire(Order(**order))
    out.send((time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))

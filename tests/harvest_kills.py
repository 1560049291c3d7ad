"""Harvests that are killed at random moments and started again, held against one that nobody disturbed.

Each harvest runs in a process of its own. It is killed (SIGKILL) after a random time, counted from the moment its
model was loaded and drawn evenly over the time of an undisturbed harvest, and started again, until it comes to its end.
Then every table is compared with that of the undisturbed harvest, row by row.
"""

import multiprocessing
import random
import resource
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from safesail.errors import SafeSailError
from safesail.harvest.config import HarvestConfig
from safesail.store.connection import open_reader, open_writer
from safesail.store.sql import one, rows

TABLES = {
    "documents": "SELECT * EXCLUDE (harvest_key) FROM documents",
    "windows": "SELECT * EXCLUDE (harvest_key) FROM windows",
    "shards": "SELECT * EXCLUDE (harvest_key) FROM shards",
    "harvests": "SELECT * EXCLUDE (harvest_key) FROM harvests",
    "harvest_saes": "SELECT sae_id FROM harvest_saes JOIN saes USING (sae_key)",
    "saes": "SELECT * EXCLUDE (sae_key) FROM saes",
    "subject_models": "FROM subject_models",
    "activations_f32": "SELECT sae_id, a.* EXCLUDE (sae_key) FROM activations_f32 a JOIN saes USING (sae_key)",
    "activations_u8": "SELECT sae_id, a.* EXCLUDE (sae_key) FROM activations_u8 a JOIN saes USING (sae_key)",
    "activation_scales": "SELECT sae_id, a.* EXCLUDE (sae_key) FROM activation_scales a JOIN saes USING (sae_key)",
    "features": "SELECT * EXCLUDE (harvest_key) FROM features",
}
"""What a harvest writes, without the short keys, which say nothing and may differ."""


@dataclass(frozen=True)
class Setup:
    """What is harvested."""

    model: str
    saes: tuple[str, ...]
    text: str
    config: HarvestConfig


@dataclass(frozen=True)
class Ended:
    """How a harvest's process ended."""

    seconds: float
    """From its loaded model to its end."""

    killed: bool
    said: int | str | None
    """New tokens, or the error; None when it was killed."""


@dataclass(frozen=True)
class Outcome:
    """What came of the kills."""

    kills: int
    moments: dict[str, int]
    """How many kills left what behind: before the first shard, between shards, all shards but not the end, the end."""

    harvests: int
    rows: dict[str, int]
    """By table, of the undisturbed harvest."""

    differing: dict[str, int]
    """By table, in how many of the harvests it was not the same."""


def contents(store: Path) -> dict[str, list[Any]]:
    """Every table of a harvest, by content."""
    with open_reader(store) as db:
        return {name: rows(db, f"SELECT * FROM ({sql}) ORDER BY ALL") for name, sql in TABLES.items()}


def kill_and_resume(setup: Setup, folder: Path, *, n_kills: int, seed: int) -> Outcome:
    """Harvest again and again, with kills, until there were `n_kills`."""
    draw = random.Random(seed)
    seconds = run_alone(setup, folder / "undisturbed.duckdb").seconds
    expected = contents(folder / "undisturbed.duckdb")
    moments: Counter[str] = Counter()

    def next_kill() -> float | None:
        return draw.uniform(0, seconds) if moments.total() < n_kills else None

    differing: Counter[str] = Counter()
    harvests = 0
    while moments.total() < n_kills:
        store = folder / f"{harvests}.duckdb"
        while run_alone(setup, store, kill_after=next_kill()).killed:
            moments[_left_behind(store, len(expected["shards"]))] += 1
        found = contents(store)
        differing.update(name for name in TABLES if found[name] != expected[name])
        if Path(f"{store}.harvest").exists():
            differing["staged files"] += 1
        harvests += 1
    counts = {name: len(table) for name, table in expected.items()}
    return Outcome(moments.total(), dict(moments), harvests, counts, dict(differing))


def run_alone(
    setup: Setup, store: Path, *, kill_after: float | None = None, largest_file: int | None = None
) -> Ended:
    """Harvest in a process of its own.

    Args:
        setup: What is harvested.
        store: Into this file.
        kill_after: SIGKILL so many seconds after the model was loaded; None: never.
        largest_file: The process may write no file larger than this, which ends it as a full disk does.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.harvest_kills_child"])
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_harvest, args=(setup, store, there, largest_file))
    process.start()
    there.close()
    here.recv()  # the model is loaded
    start = time.perf_counter()
    process.join(kill_after)
    killed = process.is_alive()
    process.kill()
    process.join()
    assert killed or process.exitcode == 0, f"the harvest ended by itself with {process.exitcode}"
    return Ended(time.perf_counter() - start, killed, None if killed else here.recv())


def _harvest(setup: Setup, store: Path, out: Connection, largest_file: int | None) -> None:
    from safesail.harvest.run import HarvestJob, run_harvest
    from tests.harvest_kills_child import load

    subject, saes = load(setup.model, setup.saes)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    out.send(None)
    try:
        with open_writer(store) as db:
            report = run_harvest(db, HarvestJob(subject, saes, [setup.text], setup.config), quiet=True)
    except SafeSailError as error:
        out.send(str(error))
    else:
        out.send(report.new_tokens)


def _left_behind(store: Path, n_shards: int) -> str:
    with open_writer(store) as db:
        found = one(
            db, "SELECT (SELECT count(*) FROM shards), coalesce(bool_or(finished), false) FROM harvests"
        )
    done, finished = found or (0, False)
    if finished:
        return "finished"
    return "no shard" if not done else "all shards" if done == n_shards else "some shards"

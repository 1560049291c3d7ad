"""Selections that are killed at a chosen moment and started again, each in a process of its own."""

import importlib
import multiprocessing
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from safesail.domain.records import Concept
from safesail.selection.config import SelectionConfig
from safesail.store.connection import open_reader
from safesail.store.sql import rows

TABLES = {
    "selections": "SELECT * EXCLUDE (seconds) FROM selections",
    "sae_scores": "FROM sae_scores",
    "feature_concepts": "FROM feature_concepts",
    "separations": "FROM separations",
    "concepts": "FROM concepts",
    "concept_pairs": "FROM concept_pairs",
    "saes": "SELECT * EXCLUDE (sae_key) FROM saes",
    "subject_models": "FROM subject_models",
}
"""What a selection writes, without its time and the short keys."""


@dataclass(frozen=True)
class Setup:
    """What is selected from."""

    model: str
    saes: tuple[str, ...]
    concepts: Sequence[Concept]
    config: SelectionConfig
    chunk_pairs: int


@dataclass(frozen=True)
class Moment:
    """The process is killed as it calls something for the n-th time."""

    module: str
    name: str
    """A function of it, or `Class.method`."""

    n: int


def select_alone(setup: Setup, store: Path, *, kill: Moment | None = None) -> int | None:
    """Select in a process of its own: the tokens that its model saw; None where it was killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.harvest_kills_child"])
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_select, args=(setup, store, kill, there))
    process.start()
    there.close()
    process.join()
    assert process.exitcode == (0 if kill is None else -signal.SIGKILL), (
        "the process did not end as it should"
    )
    return here.recv() if kill is None else None


def contents(store: Path) -> dict[str, list[Any]]:
    """Every table of a selection, by content."""
    with open_reader(store) as db:
        return {name: rows(db, f"SELECT * FROM ({sql}) ORDER BY ALL") for name, sql in TABLES.items()}


def _select(setup: Setup, store: Path, kill: Moment | None, out: Connection) -> None:
    import safesail.selection.batches as batches
    from safesail.selection.run import run_selection
    from safesail.store.connection import open_writer
    from tests.harvest_kills_child import load

    batches._CHUNK_PAIRS = setup.chunk_pairs  # pyright: ignore[reportPrivateUsage, reportConstantRedefinition]
    subject, saes = load(setup.model, setup.saes)
    if kill is not None:
        _arm(kill)
    with open_writer(store) as db:
        result = run_selection(db, subject, saes, setup.concepts, setup.config, quiet=True)
    out.send(result.n_tokens)


def _arm(kill: Moment) -> None:
    owner = importlib.import_module(kill.module)
    *classes, name = kill.name.split(".")
    for part in classes:
        owner = getattr(owner, part)
    inner, calls = getattr(owner, name), 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == kill.n:
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(*args, **kwargs)

    setattr(owner, name, counted)

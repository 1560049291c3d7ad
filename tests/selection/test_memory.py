"""Memory of a selection, counted by the interpreter: no clock, no RSS."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from safesail.sae.protocol import SAE
from safesail.selection.config import SelectionConfig
from safesail.selection.run import run_selection
from safesail.store.connection import open_writer
from safesail.subject.protocol import Subject
from tests.selection.conftest import concept, swap_word

PAIRS = 8


def peak(store: Path, subject: Subject, sae: SAE, n_concepts: int) -> int:
    """Bytes of Python and numpy at the worst moment of a selection, what it was handed left out."""
    concepts = [concept(f"violence.bomb{i}", swap_word("bomb", "cake", PAIRS, i)) for i in range(n_concepts)]
    with open_writer(store) as db:
        tracemalloc.start()
        try:
            run_selection(db, subject, [sae], concepts, SelectionConfig(draws=400), quiet=True)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


def test_memory_does_not_grow_with_the_resamples_of_concepts(
    tmp_path: Path,
    subject: Subject,
    make_sae: Callable[..., SAE],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("safesail.selection.batches._CHUNK_PAIRS", 4 * PAIRS)
    sae = make_sae("one", detects=("bomb",), noise=12)
    peak(tmp_path / "warm.duckdb", subject, sae, 4)
    few, many = (peak(tmp_path / f"{n}.duckdb", subject, sae, n) for n in (16, 64))
    # Held for 400 resamples, a concept would take 70 kB. Its tokens, its texts and what fires on them are held.
    assert (many - few) / 48 < 30_000

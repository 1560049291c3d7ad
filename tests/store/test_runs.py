"""Runs of shards, merged: the same rows as one plain sort, whatever is read at once."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safesail.store import runs as module
from safesail.store.runs import Run, RunReader
from safesail.store.staging import shard_files, write_shard_file

ROWS = st.sets(st.tuples(st.integers(0, 70), st.integers(0, 99)), max_size=80)


def columns(rows: list[tuple[int, int, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    feature, slot, value = np.array(rows, dtype=float).reshape(-1, 3).T
    return feature.astype(np.int32), slot.astype(np.int64), value.astype(np.float32)


@given(ROWS, st.randoms())
def test_a_run_is_sorted_whatever_the_order_and_the_width(keys: set[tuple[int, int]], draw: object) -> None:
    rows = [(f, s, float(1 + f + 100 * s)) for f, s in keys]
    draw.shuffle(rows)  # pyright: ignore[reportAttributeAccessIssue]
    for d_sae in (71, 1 << 50):  # the second is too wide to be sorted as one number
        run = Run.of(*columns(rows), d_sae=d_sae, n_slots=100)
        back = list(zip(run.features.tolist(), run.slot.tolist(), run.value.tolist(), strict=True))
        assert back == sorted(rows)
        assert (run.count > 0).all() and run.feature.tolist() == sorted({f for f, _, _ in rows})


@pytest.mark.parametrize(("at_once", "features"), [(1 << 20, 1 << 16), (50, 1 << 16), (1, 7)])
def test_merged_runs_are_one_plain_sort(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int, features: int
) -> None:
    monkeypatch.setattr(module, "ROWS_AT_ONCE", at_once)
    monkeypatch.setattr(module, "_ROWS_PER_FILE", 1)
    monkeypatch.setattr(module, "_FEATURES_AT_ONCE", features)
    rng, d_sae, n_slots = np.random.default_rng(0), 90, 64
    everything: list[tuple[int, int, float]] = []
    for shard in range(5):
        keys = {
            (int(f), int(s))
            for f, s in zip(rng.integers(0, 80, 200), rng.integers(0, n_slots, 200), strict=True)
        }
        rows = [(f, s, float(rng.random() + 0.1)) for f, s in keys] if shard != 2 else []
        write_shard_file(
            tmp_path, shard, shard * n_slots, {7: Run.of(*columns(rows), d_sae=d_sae, n_slots=n_slots)}, {}
        )
        everything += [(f, s + shard * n_slots, v) for f, s, v in rows]
    reader = RunReader(shard_files(tmp_path, range(5)), "7", d_sae)
    assert [r[0] for r in reader.ranges] == [0, *(r[1] for r in reader.ranges[:-1])] and reader.ranges[-1][
        1
    ] == d_sae
    merged = list(reader)
    assert max(len(part.value) for part in merged) <= max(at_once, 80)
    found = [
        (f, t, pytest.approx(v))
        for part in merged
        for f, t, v in zip(part.feature.tolist(), part.token.tolist(), part.value.tolist(), strict=True)
    ]
    assert sorted(everything) == found

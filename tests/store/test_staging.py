"""Files beside the store, while a harvest is under way."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from safesail.errors import DataError
from safesail.store import staging
from safesail.store.connection import Db

COLUMNS = {
    "feature": np.array([3, 3, 70_000], dtype=np.int32),
    "token": np.array([5, 2**40, 0], dtype=np.int64),
    "value": np.array([0.1, 3e38, 1e-30], dtype=np.float32),
}


def test_a_part_holds_what_was_written(tmp_path: Path) -> None:
    staging.write_nonzeros(tmp_path / "1", 12, 3, COLUMNS)
    (path,) = staging.nonzero_paths(tmp_path / "1", [12], 3)
    table = pq.read_table(path)
    for name, column in COLUMNS.items():
        assert table[name].to_numpy().tolist() == column.tolist()
        assert table[name].to_numpy().dtype == column.dtype


def test_a_part_written_again_replaces_the_first(tmp_path: Path) -> None:
    staging.write_nonzeros(tmp_path, 0, 1, COLUMNS)
    staging.write_nonzeros(tmp_path, 0, 1, {name: column[:1] for name, column in COLUMNS.items()})
    assert [pq.read_table(path).num_rows for path in staging.nonzero_paths(tmp_path, [0], 1)] == [1]


def test_a_half_written_part_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "0000000-1.partial").write_bytes(b"PAR1 half")
    with pytest.raises(DataError, match=r"0000000-1\.parquet is missing; .* put it back, or start again"):
        staging.nonzero_paths(tmp_path, [0], 1)


def test_parts_come_in_the_order_of_the_shards_past_ten(tmp_path: Path) -> None:
    for shard in (10, 9, 2):
        staging.write_nonzeros(tmp_path, shard, 1, COLUMNS)
    names = [Path(path).name for path in staging.nonzero_paths(tmp_path, {10, 2, 9}, 1)]
    assert names == ["0000002-1.parquet", "0000009-1.parquet", "0000010-1.parquet"]


def test_files_lie_beside_the_store_and_go_with_the_last_harvest(db: Db, tmp_path: Path) -> None:
    first, second = staging.staging_dir(db, "harvest") / "1", staging.staging_dir(db, "harvest") / "2"
    assert first == tmp_path / "store.duckdb.harvest" / "1"
    for folder in (first, second):
        staging.write_nonzeros(folder, 0, 1, COLUMNS)
    staging.clear(first)
    assert second.is_dir()
    staging.clear(second)
    assert not second.parent.exists()
    staging.clear(second)  # nothing there: nothing to do

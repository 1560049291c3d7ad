"""Files beside the store, while a harvest is under way."""

from pathlib import Path

import numpy as np
import pytest

from safesail.errors import DataError
from safesail.store import staging
from safesail.store.connection import Db
from safesail.store.histogram import Histogram
from safesail.store.runs import Run
from safesail.store.sections import SectionFile, write_sections
from safesail.store.staging import DroppedHistograms

D_SAE = 1 << 17


def run(*rows: tuple[int, int, float]) -> Run:
    feature, slot, value = (np.array(column) for column in zip(*rows, strict=True))
    return Run.of(feature, slot, value.astype(np.float32), d_sae=D_SAE, n_slots=1000)


def histogram(seed: int, n: int = 500) -> Histogram:
    rng = np.random.default_rng(seed)
    return Histogram.of(rng.integers(0, 40, n), rng.lognormal(size=n).astype(np.float32), D_SAE)


def test_a_part_of_a_file_is_read_without_the_rest(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(7, dtype=np.uint64),
        "empty": np.zeros(0, np.int32),
        "b": np.array([0.1, 3e38], np.float32),
    }
    with write_sections(tmp_path / "f", {"first_slot": 2**40}) as file:
        for name, array in arrays.items():
            file.add(name, array)
    opened = SectionFile.open(tmp_path / "f")
    assert opened.about == {"first_slot": 2**40}
    assert "a" in opened and "c" not in opened
    for name, array in arrays.items():
        back = opened.read(name)
        assert back.dtype == array.dtype and back.tolist() == array.tolist()
    assert opened.read("a", 2, 5).tolist() == [2, 3, 4]


def test_a_file_written_again_replaces_the_first(tmp_path: Path) -> None:
    for rows in ([(3, 5, 0.1), (3, 6, 0.2)], [(3, 5, 0.1)]):
        staging.write_shard_file(tmp_path, 0, 0, {1: run(*rows)}, {})
    (file,) = staging.shard_files(tmp_path, [0])
    assert len(file.read("1/entry")) == 1


@pytest.mark.parametrize("damage", [b"", b"SAIL", b"half of a file, and no index at its end"])
def test_a_file_that_is_cut_off_is_named(tmp_path: Path, damage: bytes) -> None:
    staging.write_shard_file(tmp_path / "s.harvest" / "1", 3, 0, {1: run((3, 5, 0.1))}, {})
    (tmp_path / "s.harvest" / "1" / "0000003.run").write_bytes(damage)
    with pytest.raises(DataError, match=r"0000003\.run is damaged"):
        staging.shard_files(tmp_path / "s.harvest" / "1", [3])


def test_a_half_written_file_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "0000000.partial").write_bytes(b"half")
    with pytest.raises(DataError, match=r"0000000\.run is missing; .* put it back, or start again"):
        staging.shard_files(tmp_path, [0])


def test_files_come_in_the_order_of_the_shards_past_ten(tmp_path: Path) -> None:
    for shard in (10, 9, 2):
        staging.write_shard_file(tmp_path, shard, 0, {1: run((3, 5, 0.1))}, {})
    names = [file.path.name for file in staging.shard_files(tmp_path, {10, 2, 9})]
    assert names == ["0000002.run", "0000009.run", "0000010.run"]


def test_files_lie_beside_the_store_and_go_with_the_last_harvest(db: Db, tmp_path: Path) -> None:
    first, second = staging.staging_dir(db, "harvest") / "1", staging.staging_dir(db, "harvest") / "2"
    assert first == tmp_path / "store.duckdb.harvest" / "1"
    for folder in (first, second):
        staging.write_shard_file(folder, 0, 0, {1: run((3, 5, 0.1))}, {})
    staging.clear(first)
    assert second.is_dir()
    staging.clear(second)
    assert not second.parent.exists()
    staging.clear(second)  # nothing there: nothing to do


def same(a: Histogram | None, b: Histogram | None) -> bool:
    assert a is not None and b is not None
    return all(np.array_equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def test_dropped_histograms_are_added_up_seldom_and_each_once(tmp_path: Path) -> None:
    parts = {shard: {1: histogram(shard), 2: histogram(100 + shard)} for shard in range(12)}
    dropped, sums = DroppedHistograms(tmp_path, [1, 2], least=30_000), 0
    for shard, histograms in parts.items():
        staging.write_shard_file(tmp_path, shard, 0, {}, histograms)
        before = len(list(tmp_path.glob("*.dropped")))
        dropped.after_shard(range(shard + 1))
        sums += len(list(tmp_path.glob("*.dropped"))) < before
    assert 1 <= sums <= 4
    for sae_key in (1, 2):
        expected = Histogram.add_up([of[sae_key] for of in parts.values()])
        assert same(dropped.total(range(12), sae_key), expected)
    assert dropped.total(range(12), 3) is None


def test_a_sum_that_was_killed_before_it_removed_its_parts_counts_none_twice(tmp_path: Path) -> None:
    for shard in range(3):
        staging.write_shard_file(tmp_path, shard, 0, {}, {1: histogram(shard)})
    kept = {path: path.read_bytes() for path in tmp_path.glob("*.dropped")}
    DroppedHistograms(tmp_path, [1], least=1).after_shard(range(3))
    assert not list(tmp_path.glob("*.dropped"))
    for path, content in kept.items():
        path.write_bytes(content)
    # A shard whose rows are not in the store does not count either: it will be written again.
    staging.write_shard_file(tmp_path, 3, 0, {}, {1: histogram(9)})
    again = DroppedHistograms(tmp_path, [1])
    expected = Histogram.add_up([histogram(shard) for shard in range(3)])
    assert same(again.total(range(3), 1), expected)
    assert same(again.total(range(4), 1), Histogram.add_up([expected, histogram(9)]))

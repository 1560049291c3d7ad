"""Stores that are damaged, cut off or foreign, disks that are full, and who may read what is made."""

import random
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import duckdb
import pytest

from safesail.domain.ids import FeatureId
from safesail.errors import DataError
from safesail.store import concepts, selection, shown, staging
from safesail.store.connection import Db, limited_memory, open_reader, open_writer
from safesail.store.sql import rows, transaction, value

Opener = Callable[[Path], AbstractContextManager[Db]]

FEATURE = FeatureId("a", 3)
FILL = """
    INSERT INTO subject_models VALUES ('m', 'f', 8, 2);
    INSERT INTO saes VALUES ('a', 1, 'm', 0, 'h', 8, 9, 'topk', 2, 's', 'x');
    INSERT INTO harvests VALUES (1, 'one', 'm', 'f', '{}', 64, true);
    INSERT INTO harvest_saes VALUES (1, 1);
    INSERT INTO windows SELECT 1, i, concat('d', i), 0, 'train', range(60),
        list_transform(range(60), lambda t: 'tok' || t * i) FROM range(300) t(i);
    INSERT INTO activations_f32 SELECT 1, 3, 3 * 19_200 + i * 7, 19_200, i FROM range(2_000) t(i);
    INSERT INTO features SELECT 'a', f, 1, 192, 1, 0.5, 1, 1, 1, 1, 1, ['t'] FROM range(9) r(f);
    INSERT INTO tags VALUES ('a', 3, 'x', 'explainer', 2);
    INSERT INTO concepts SELECT 'c' || i, 'd', NULL, 'n', repeat('x', 500) FROM range(1000) t(i);
    INSERT INTO selections VALUES ('s', 'a', 'c', '{"controls": []}', 1, 1, 1);
    INSERT INTO feature_concepts VALUES ('s', 'a', 3, 'c1', 0.9, 0.1, 4, true);
"""
READERS: dict[str, Callable[[Db], object]] = {
    "catalog": lambda db: rows(db, "FROM catalog ORDER BY ALL"),
    "ledger": lambda db: rows(db, "FROM ledger ORDER BY ALL"),
    "exemplars": lambda db: shown.exemplar_rows(db, FEATURE, 20),
    "statistics": lambda db: shown.feature_row(db, FEATURE),
    "tags": lambda db: shown.tag_rows(db, FEATURE),
    "concepts": concepts.read_concepts,
    "candidates": lambda db: selection.candidate_features(db, "a"),
    "ranking": selection.ranked_saes,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, object]]:
    """A store's bytes, and what every reader says of it."""
    path = tmp_path_factory.mktemp("whole") / "s.duckdb"
    with open_writer(path) as db:
        db.execute(FILL)
    with open_reader(path) as db:
        return path.read_bytes(), {name: read(db) for name, read in READERS.items()}


def answers(opener: Opener, path: Path) -> dict[str, object] | str:
    """What every reader says, or the one line that says why none can."""
    try:
        with opener(path) as db:
            return {name: read(db) for name, read in READERS.items()}
    except DataError as error:
        return str(error)


def is_line(said: object, path: Path) -> bool:
    return isinstance(said, str) and str(path) in said and re.search(r"[\x00-\x1f]", said) is None


@pytest.mark.parametrize("opener", [open_reader, open_writer])
def test_flipped_bits_are_a_line_or_change_nothing(
    whole: tuple[bytes, dict[str, object]], tmp_path: Path, opener: Opener
) -> None:
    content, expected = whole
    said: list[str] = []
    for seed in range(40):
        draw, damaged = random.Random(seed), bytearray(content)
        for _ in range(draw.choice([1, 3, 30])):
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        path = tmp_path / f"{seed}.duckdb"
        path.write_bytes(damaged)
        found = answers(opener, path)
        assert found == expected or is_line(found, path), (seed, found)
        said += [found] if isinstance(found, str) else []
        path.unlink()
    assert len(said) > 10  # the flips do hit what is read
    assert any("is damaged" in line for line in said)


@pytest.mark.parametrize("opener", [open_reader, open_writer])
@pytest.mark.parametrize("share", [0.001, 0.01, 0.3, 0.9])
def test_a_store_that_was_cut_off_is_a_line(
    whole: tuple[bytes, dict[str, object]], tmp_path: Path, opener: Opener, share: float
) -> None:
    path = tmp_path / "s.duckdb"
    path.write_bytes(whole[0][: int(share * len(whole[0]))])
    assert is_line(answers(opener, path), path)


def test_stores_without_some_table_or_column_are_a_line(
    whole: tuple[bytes, dict[str, object]], tmp_path: Path
) -> None:
    path = tmp_path / "s.duckdb"
    path.write_bytes(whole[0])
    with open_reader(path) as db:
        columns = rows(
            db, "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal ORDER BY ALL"
        )
        tables = rows(db, "SELECT table_name FROM duckdb_tables() ORDER BY 1")
    draw = random.Random(0)
    losses = [f'DROP TABLE "{t}"' for (t,) in tables]
    losses += [f'ALTER TABLE "{t}" DROP COLUMN "{c}"' for t, c in draw.sample(columns, 60) if (t,) in tables]
    said = set[str]()
    for loss in losses:
        path.write_bytes(whole[0])
        try:
            with duckdb.connect(path) as db:
                db.execute(loss)
        except duckdb.Error:  # an index or a key stands on the column
            continue
        for opener in (open_reader, open_writer):
            found = answers(opener, path)
            assert found == whole[1] or is_line(found, path), (loss, found)
            said |= {found} if isinstance(found, str) else set()
    assert len(said) > 15


FULL = """
import resource, sys
from pathlib import Path
from safesail.errors import DataError
from safesail.store.connection import open_writer
from safesail.store.sql import transaction
size = Path(sys.argv[1]).stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 300_000, size + 300_000))
try:
    with open_writer(Path(sys.argv[1])) as db:
        for i in range(1000):
            with transaction(db):
                db.execute("INSERT INTO concepts SELECT concat('n', ?, '/', i), 'd', NULL, 'n', md5(concat(?, i))"
                           " FROM range(100) t(i)", [i, i])
            print(i, flush=True)
except DataError as error:
    print(error)
"""


def test_a_full_disk_is_a_line_and_keeps_what_was_committed(
    whole: tuple[bytes, dict[str, object]], tmp_path: Path
) -> None:
    path = tmp_path / "s.duckdb"
    path.write_bytes(whole[0])
    child = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True
    )
    *committed, said = child.stdout.splitlines()
    assert child.stderr == ""
    assert "cannot be written" in said and said.endswith("what is stored so far is kept")
    assert committed
    with open_writer(path) as db:
        kept = value(db, "SELECT count(*) FROM concepts WHERE starts_with(concept_id, 'n')")
        assert kept in (100 * len(committed), 100 * len(committed) + 100)  # whole transactions


@pytest.mark.parametrize("path", ["/proc/store.duckdb", "/proc/none/store.duckdb"])
def test_where_nothing_can_be_made_is_a_line(path: str) -> None:
    found = answers(open_writer, Path(path))
    assert is_line(found, Path(path)) and "cannot be" in str(found)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_store_is_its_owners_alone_with_all_that_lies_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    with open_writer(path) as db, limited_memory(db, 60):
        with transaction(db):
            db.execute("INSERT INTO subject_models VALUES ('m', 'f', 8, 2)")
        staging.write_shard_file(tmp_path / "s.duckdb.harvest", 0, 0, {}, {})
        staging.write_part(tmp_path / "s.duckdb.selection", "one", {}, {})
        db.execute("SET threads = 1")
        sorted_rows = db.execute("SELECT i, md5(concat(i)) AS m FROM range(4_000_000) t(i) ORDER BY m")
        files = [p for p in tmp_path.rglob("*") if p.is_file()]
        assert any(".wal" in p.name for p in files) and any("temp" in p.name for p in files)
        assert {mode(p) for p in files} == {0o600}
        del sorted_rows
    assert mode(path) == 0o600
    (tmp_path / "after").touch()
    assert mode(tmp_path / "after") != 0o600  # only while the store is open


def test_a_reader_sorts_in_a_folder_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    with open_writer(path):
        pass
    with open_reader(path) as db:
        spill = Path(value(db, "SELECT current_setting('temp_directory')"))
        assert spill.parent != tmp_path and mode(spill) == 0o700
    assert not spill.exists()


def test_an_error_of_the_program_within_the_block_stays_what_it_is(tmp_path: Path) -> None:
    for fault in (RuntimeError("x"), OSError("elsewhere"), DataError("a line")):
        with pytest.raises(type(fault), match=str(fault)), open_writer(tmp_path / "s.duckdb"):
            raise fault

"""Opening the store: what is there, what is not, and who else holds it."""

import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import duckdb
import pytest

from safesail.errors import DataError, NotFoundError, SchemaVersionError, StoreLockedError
from safesail.store.connection import Db, open_memory, open_reader, open_writer
from safesail.store.sql import one, rows, value

Opener = Callable[[Path], AbstractContextManager[Db]]

HOLD = """
import sys
from pathlib import Path
from safesail.store.connection import open_writer
with open_writer(Path(sys.argv[1])):
    print("open", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another_process(path: Path) -> Generator[int, None, None]:
    """Another process has the store open for writing; gives its PID."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == b"open"
        yield child.pid


@pytest.mark.parametrize("opener", [open_writer, open_reader])
def test_a_held_store_names_its_holder(tmp_path: Path, opener: Opener) -> None:
    path = tmp_path / "store.duckdb"
    with held_by_another_process(path) as pid:
        with pytest.raises(StoreLockedError) as caught, opener(path):
            pass
        assert str(caught.value) == f"{path} is held by process {pid}; wait until it ends, or stop it"
    with opener(path) as db:
        assert value(db, "SELECT count(*) FROM runs") == 0


@pytest.mark.parametrize("opener", [open_writer, open_reader])
def test_what_is_no_duckdb_file_is_a_one_line_error(tmp_path: Path, opener: Opener) -> None:
    # The folder's name holds "lock", which must not be taken for a lock.
    path = tmp_path / "block" / "notes.txt"
    path.parent.mkdir()
    path.write_text("just a text\n" * 1000, encoding="utf-8")
    with pytest.raises(DataError) as caught, opener(path):
        pass
    assert type(caught.value) is DataError
    assert str(caught.value).startswith(f"{path} cannot be opened as a DuckDB store: ")
    assert "\n" not in str(caught.value)
    assert path.read_text(encoding="utf-8").startswith("just a text")


def test_a_store_in_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with (
        pytest.raises(DataError, match=r"cannot be made: .*name another --store"),
        open_writer(tmp_path / "file" / "store.duckdb"),
    ):
        pass


def test_reading_what_is_not_there_makes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "none.duckdb"
    with pytest.raises(NotFoundError, match=r"no store at .*--store"), open_reader(path):
        pass
    assert not path.exists()


def test_another_duckdb_file_is_not_a_store(tmp_path: Path) -> None:
    path = tmp_path / "other.duckdb"
    with duckdb.connect(path) as other:
        other.execute("CREATE TABLE t (a INTEGER)")
    with pytest.raises(DataError, match="is a DuckDB file, but not a Safe-SAIL store"), open_reader(path):
        pass


def test_two_modes_in_one_process(tmp_path: Path) -> None:
    path = tmp_path / "store.duckdb"
    with (
        open_writer(path),
        pytest.raises(StoreLockedError, match="open in this process in another mode"),
        open_reader(path),
    ):
        pass


def test_a_reader_cannot_write_and_many_may_read(tmp_path: Path) -> None:
    path = tmp_path / "made" / "on the way" / "store.duckdb"
    with open_writer(path):
        pass
    with open_reader(path) as first, open_reader(path) as second:
        assert value(first, "SELECT count(*) FROM saes") == value(second, "SELECT count(*) FROM saes") == 0
        with pytest.raises(duckdb.InvalidInputException, match="read-only"):
            first.execute("DELETE FROM saes")


def test_the_store_is_closed_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "store.duckdb"
    with pytest.raises(RuntimeError, match="stop"), open_writer(path) as db:
        db.execute("INSERT INTO subject_models VALUES ('m', 'f', 1, 1)")
        raise RuntimeError("stop")
    with open_reader(path) as db:
        assert rows(db, "SELECT model_id FROM subject_models") == [("m",)]


def test_a_store_in_memory_is_migrated_and_alone() -> None:
    with open_memory() as a, open_memory() as b:
        a.execute("INSERT INTO subject_models VALUES ('m', 'f', 1, 1)")
        assert one(a, "SELECT d_model FROM subject_models WHERE model_id = ?", ["m"]) == (1,)
        assert one(b, "SELECT d_model FROM subject_models") is None


@pytest.mark.parametrize("opener", [open_writer, open_reader])
def test_a_newer_store_is_refused(tmp_path: Path, opener: Opener) -> None:
    path = tmp_path / "store.duckdb"
    with open_writer(path) as db:
        db.execute("INSERT INTO schema_version VALUES ('m999_from_the_future')")
    with pytest.raises(SchemaVersionError, match=r"m999_from_the_future.*upgrade safesail"), opener(path):
        pass


def test_nothing_of_the_store_goes_to_stdout_among_results(tmp_path: Path) -> None:
    with open_writer(tmp_path / "s.duckdb") as db:
        assert value(db, "SELECT current_setting('enable_progress_bar')") is False
    with open_reader(tmp_path / "s.duckdb") as db:
        assert value(db, "SELECT current_setting('enable_progress_bar')") is False
    with open_memory() as db:
        assert value(db, "SELECT current_setting('enable_progress_bar')") is False

"""Opening the store: every fault of the file is one line that a person can act on."""

import os
import re
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from safesail.errors import DataError, NotFoundError, StoreLockedError
from safesail.store.migrations import check_version, migrate
from safesail.store.sql import Db as Db

_NEW_FILES: dict[str, str | bool | int | float | list[str]] = {"default_block_size": "65536"}
"""A quarter of DuckDB's own: a column of 100,000 packed numbers leaves less of its last block empty."""


@contextmanager
def open_writer(path: Path) -> Generator[Db, None, None]:
    """Open the store at `path` for writing, creating and migrating it where needed.

    DuckDB lets one process write and shuts all others out, readers too. A store holds prompts and answers: it is
    made readable by its owner alone, and so is whatever else this process makes while it is open.

    Raises:
        StoreLockedError: another process holds the file.
        SchemaVersionError: a newer Safe-SAIL wrote it.
        DataError: the file is not a DuckDB store, is damaged, cannot be written, or its folder cannot be made.
    """
    with _faults_of(path), _private_files():
        path.parent.mkdir(parents=True, exist_ok=True)
        with duckdb.connect(path, config=_NEW_FILES) as db:
            _set_up(db)
            migrate(db)
            yield db


@contextmanager
def open_reader(path: Path) -> Generator[Db, None, None]:
    """Open the store at `path` read-only; many processes may read at once.

    Raises:
        NotFoundError: there is no store at `path`.
        StoreLockedError: another process is writing to it.
        SchemaVersionError: a newer Safe-SAIL wrote it, or an older one left it unmigrated.
        DataError: the file is not a DuckDB store, or is damaged.
    """
    if not path.is_file():
        raise NotFoundError(f"no store at {path}; name one with --store, or make one with `safesail run`")
    with _faults_of(path), _spill_folder() as spill, duckdb.connect(path, read_only=True) as db:
        _set_up(db, spill)
        check_version(db, path)
        yield db


@contextmanager
def open_memory() -> Generator[Db, None, None]:
    """An empty store in memory, gone when the block ends."""
    with _spill_folder() as spill, duckdb.connect(":memory:") as db:
        _set_up(db, spill)
        migrate(db)
        yield db


def _set_up(db: Db, spill: str | None = None) -> None:
    db.execute("SET enable_progress_bar = false")  # it goes to stdout, among the results
    if spill is not None:
        db.execute("SET temp_directory = ?", [spill])


def _spill_folder() -> TemporaryDirectory[str]:
    """Where a reader sorts what does not fit into memory: private, and not beside a store that is read-only."""
    return TemporaryDirectory(prefix="safesail-", ignore_cleanup_errors=True)


@contextmanager
def _private_files() -> Generator[None, None, None]:
    """DuckDB makes its file, log and temporary files as the umask says, at times of its own choosing."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def _faults_of(path: Path) -> Generator[None, None, None]:
    """What DuckDB says of the file at `path`, as an error a person can act on."""
    try:
        yield
    except duckdb.ConnectionException as error:
        raise StoreLockedError(f"{path} is open in this process in another mode; close it first") from error
    except OSError as error:
        if error.filename is None or Path(error.filename) not in (path, *path.parents):
            raise
        raise DataError(
            f"{path} cannot be made: {error.filename}: {error.strerror}; name another --store"
        ) from error
    except duckdb.Error as error:
        raise _explain(path, error) from error


def _explain(path: Path, error: duckdb.Error) -> DataError:
    # The text quotes the path, which may itself hold any of these words.
    text = " ".join(str(error).replace(str(path), "the file").split())[:200]
    if "set lock" in text:
        holder = re.search(r"\(PID (\d+)\)", text)
        who = f"process {holder.group(1)}" if holder else "another process"
        return StoreLockedError(f"{path} is held by {who}; wait until it ends, or stop it")
    advice = next(said for pattern, said in _ADVICE.items() if re.search(pattern, text, re.IGNORECASE))
    return DataError(f"{path} {advice.format(text)}")


_ADVICE = {
    "not a valid duckdb database": "cannot be opened as a DuckDB store: {}",
    "out of memory|bad_alloc": "cannot be worked on in the memory there is ({})",
    "no space|too large|could not write|cannot open|read-only|permission": (
        "cannot be written ({}); what is stored so far is kept"
    ),
    "": "is damaged, or not as Safe-SAIL wrote it ({}); use a copy of it, or make it again",
}
"""What is said of the file, by what DuckDB said."""


@contextmanager
def limited_memory(db: Db, megabytes: int) -> Generator[None, None, None]:
    """Within the block, DuckDB holds at most so much, and sorts on disk what does not fit."""
    (before,) = db.execute("SELECT current_setting('memory_limit')").fetchall()[0]
    db.execute(f"SET memory_limit = '{megabytes}MiB'")
    try:
        yield
    finally:
        # A database that a full disk has closed refuses every statement.
        with suppress(duckdb.Error):
            db.execute(f"SET memory_limit = '{before}'")

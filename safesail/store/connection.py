"""Opening the store."""

import re
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb

from safesail.errors import DataError, NotFoundError, StoreLockedError
from safesail.store.migrations import check_version, migrate
from safesail.store.sql import Db as Db

_NEW_FILES: dict[str, str | bool | int | float | list[str]] = {"default_block_size": "65536"}
"""A quarter of DuckDB's own: a column of 100,000 packed numbers leaves less of its last block empty."""


@contextmanager
def open_writer(path: Path) -> Generator[Db, None, None]:
    """Open the store at `path` for writing, creating and migrating it where needed.

    DuckDB lets one process write and shuts all others out, readers too.

    Raises:
        StoreLockedError: another process holds the file.
        SchemaVersionError: a newer Safe-SAIL wrote it.
        DataError: the file is not a DuckDB store, or its folder cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{path} cannot be made: {path.parent}: {error.strerror}; name another --store"
        ) from error
    db = _connect(path, read_only=False)
    try:
        migrate(db)
        yield db
    finally:
        db.close()


@contextmanager
def open_reader(path: Path) -> Generator[Db, None, None]:
    """Open the store at `path` read-only; many processes may read at once.

    Raises:
        NotFoundError: there is no store at `path`.
        StoreLockedError: another process is writing to it.
        SchemaVersionError: a newer Safe-SAIL wrote it, or an older one left it unmigrated.
        DataError: the file is not a DuckDB store.
    """
    if not path.is_file():
        raise NotFoundError(f"no store at {path}; name one with --store, or make one with `safesail run`")
    db = _connect(path, read_only=True)
    try:
        check_version(db, path)
        yield db
    finally:
        db.close()


def _connect(path: Path, *, read_only: bool) -> Db:
    try:
        if read_only:
            return _silent(duckdb.connect(path, read_only=True))
        return _silent(duckdb.connect(path, config=_NEW_FILES))
    except duckdb.IOException as error:
        raise _explain(path, error) from error
    except duckdb.ConnectionException as error:
        raise StoreLockedError(f"{path} is open in this process in another mode; close it first") from error


def _silent(db: Db) -> Db:
    """Without DuckDB's own progress bar, which goes to stdout, among the results."""
    db.execute("SET enable_progress_bar = false")
    return db


def _explain(path: Path, error: duckdb.Error) -> DataError:
    """The error a person can act on, out of DuckDB's own text."""
    text = str(error)
    # The text quotes the path, which may itself hold the word.
    if "lock" in text.replace(str(path), "").lower():
        holder = re.search(r"\(PID (\d+)\)", text)
        who = f"process {holder.group(1)}" if holder else "another process"
        return StoreLockedError(f"{path} is held by {who}; wait until it ends, or stop it")
    return DataError(f"{path} cannot be opened as a DuckDB store: {text.splitlines()[0]}")


@contextmanager
def open_memory() -> Generator[Db, None, None]:
    """An empty store in memory, gone when the block ends."""
    db = _silent(duckdb.connect(":memory:"))
    try:
        migrate(db)
        yield db
    finally:
        db.close()


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

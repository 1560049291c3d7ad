"""Reading rows and writing in transactions."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import duckdb

from safesail.errors import DataError

Db = duckdb.DuckDBPyConnection
"""An open store. Functions of this package take it first, and never open one themselves."""

Row = tuple[Any, ...]

_WRITE_FAULTS = (
    duckdb.IOException,
    duckdb.OutOfMemoryException,
    duckdb.FatalException,
    duckdb.TransactionException,  # a commit for which the disk has no room
)


@contextmanager
def transaction(db: Db) -> Generator[None, None, None]:
    """All of the block's writes, or none: committed and on the disk when the block has ended.

    Raises:
        DataError: the disk is full, or the store cannot be written; what was committed before is kept.
    """
    db.begin()
    try:
        yield
        db.commit()
    except BaseException as error:
        with suppress(
            duckdb.Error
        ):  # a failed commit has ended the transaction, or the whole database, already
            db.rollback()
        if isinstance(error, _WRITE_FAULTS):
            reason = " ".join(str(error).split())[:200]
            raise DataError(
                f"the store cannot be written ({reason}); what is stored so far is kept"
            ) from error
        raise


def rows(db: Db, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[Row]:
    """All rows of a query; parameters by position (`?`) or by name (`$name`).

    DuckDB keeps a half-read result open and refuses other work, so all rows are fetched.
    """
    given = dict(parameters) if isinstance(parameters, Mapping) else list(parameters)
    return db.execute(sql, given).fetchall()


def numbers(values: Iterable[int]) -> str:
    """Whole numbers as a list in SQL: unlike a parameter, it tells which blocks of a table need not be read."""
    return ", ".join(str(int(number)) for number in values)


def one(db: Db, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> Row | None:
    """The first row of a query, or None where it has none."""
    return next(iter(rows(db, sql, parameters)), None)


def value(db: Db, sql: str, parameters: Sequence[Any] = ()) -> Any:
    """The single value of a query that always gives one row."""
    row = one(db, sql, parameters)
    assert row is not None, sql
    return row[0]

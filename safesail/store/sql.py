"""Reading rows. DuckDB keeps a half-read result open and refuses other work, so all rows are fetched."""

from collections.abc import Mapping, Sequence
from typing import Any

from safesail.store.connection import Db

Row = tuple[Any, ...]


def rows(db: Db, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[Row]:
    """All rows of a query; parameters by place (`?`) or by name (`$name`)."""
    given = dict(parameters) if isinstance(parameters, Mapping) else list(parameters)
    return db.execute(sql, given).fetchall()


def one(db: Db, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
    """The first row of a query, or None where it has none."""
    found = rows(db, sql, parameters)
    return found[0] if found else None


def value(db: Db, sql: str, parameters: Sequence[Any] = ()) -> Any:
    """The single value of a query that always gives one row."""
    found = one(db, sql, parameters)
    assert found is not None, sql
    return found[0]

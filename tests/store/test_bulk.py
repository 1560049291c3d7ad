"""Bulk inserts."""

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from safesail.store.bulk import insert
from safesail.store.connection import Db
from safesail.store.sql import rows, value

ROWS = "SELECT a, b FROM t ORDER BY a"


@pytest.fixture
def table(db: Db) -> Db:
    db.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT DEFAULT 'none')")
    insert(db, "t", {"a": [1, 2], "b": ["one", None]})
    return db


def test_columns_of_every_kind_and_unknown_values(table: Db) -> None:
    assert insert(table, "t", {"b": pa.array(["x", None]), "a": np.array([3, 4], dtype=np.int32)}) == 2
    assert rows(table, ROWS) == [(1, "one"), (2, None), (3, "x"), (4, None)]


def test_columns_left_out_take_their_default(table: Db) -> None:
    insert(table, "t", {"a": [9]})
    assert rows(table, ROWS)[-1] == (9, "none")


def test_no_rows_is_no_insert(table: Db) -> None:
    assert insert(table, "t", {"a": [], "b": []}) == 0
    assert value(table, "SELECT count(*) FROM t") == 2


def test_a_duplicate_key_is_an_error_and_nothing_is_kept(table: Db) -> None:
    with pytest.raises(duckdb.ConstraintException, match="Duplicate key"):
        insert(table, "t", {"a": [5, 1], "b": ["five", "new"]})
    assert rows(table, ROWS) == [(1, "one"), (2, None)]


@pytest.mark.parametrize(("on_conflict", "b"), [("IGNORE", "one"), ("REPLACE", "new")])
def test_on_conflict(table: Db, on_conflict: str, b: str) -> None:
    assert insert(table, "t", {"a": [5, 1], "b": ["five", "new"]}, on_conflict=on_conflict) == 2
    assert rows(table, ROWS) == [(1, b), (2, None), (5, "five")]


def test_an_error_within_a_transaction_is_the_one_shown(table: Db) -> None:
    table.begin()
    insert(table, "t", {"a": [5]})
    with pytest.raises(duckdb.ConstraintException, match="Duplicate key"):
        insert(table, "t", {"a": [1]})
    table.rollback()
    assert rows(table, ROWS) == [(1, "one"), (2, None)]
    insert(table, "t", {"a": [6]})
    assert rows(table, ROWS)[-1] == (6, "none")


def test_columns_of_unequal_length_are_refused(table: Db) -> None:
    with pytest.raises(pa.ArrowInvalid, match="expected length 2 but got length 1"):
        insert(table, "t", {"a": [7, 8], "b": ["x"]})

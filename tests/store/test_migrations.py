"""Migrations: whole or not at all, once, in order."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from safesail.errors import SchemaVersionError
from safesail.store.connection import Db, open_reader, open_writer
from safesail.store.migrations import MIGRATIONS, Migration, migrate, migration
from safesail.store.sql import rows, value


@contextmanager
def one_more(step: Migration) -> Generator[None, None, None]:
    """A version of Safe-SAIL with one more migration."""
    migration(step)
    try:
        yield
    finally:
        MIGRATIONS.remove(step)


def tables(db: Db) -> set[str]:
    return {r[0] for r in rows(db, "SELECT table_name FROM duckdb_tables()")}


def m900_adds(db: Db) -> None:
    db.execute("CREATE TABLE added (a INTEGER)")
    db.execute("INSERT INTO added VALUES (7)")


def m901_breaks_off(db: Db) -> None:
    db.execute("CREATE TABLE half (a INTEGER)")
    raise KeyboardInterrupt


def test_migrating_twice_changes_nothing(db: Db) -> None:
    before = tables(db)
    migrate(db)
    assert tables(db) == before
    assert rows(db, "SELECT applied FROM schema_version") == [(step.__name__,) for step in MIGRATIONS]


def test_a_half_done_migration_leaves_nothing(db: Db) -> None:
    before = tables(db)
    with one_more(m900_adds), one_more(m901_breaks_off), pytest.raises(KeyboardInterrupt):
        migrate(db)
    assert tables(db) == before | {"added"}
    assert [r[0] for r in rows(db, "SELECT applied FROM schema_version")][-1] == "m900_adds"
    assert value(db, "SELECT a FROM added") == 7


def test_an_older_store_is_read_only_after_it_was_opened_for_writing(tmp_path: Path) -> None:
    path = tmp_path / "store.duckdb"
    with open_writer(path):
        pass
    with one_more(m900_adds):
        with (
            pytest.raises(SchemaVersionError, match="lacks m900_adds; open it once for writing"),
            open_reader(path),
        ):
            pass
        with open_writer(path):
            pass
        with open_reader(path) as db:
            assert value(db, "SELECT a FROM added") == 7
    with pytest.raises(SchemaVersionError, match=r"m900_adds.*upgrade safesail"), open_reader(path):
        pass


def test_activations_of_an_earlier_store_keep_their_tokens(tmp_path: Path) -> None:
    path = tmp_path / "store.duckdb"
    with open_writer(path) as db:
        # As the first version made them.
        db.execute(
            "DROP VIEW exemplars; DROP VIEW activations; DROP TABLE activations_f32; DROP TABLE activations_u8"
        )
        columns = "sae_key INTEGER NOT NULL, feature INTEGER NOT NULL, token BIGINT NOT NULL"
        db.execute(f"CREATE TABLE activations_f32 ({columns}, value FLOAT NOT NULL)")
        db.execute(f"CREATE TABLE activations_u8 ({columns}, code UTINYINT NOT NULL)")
        db.execute("CREATE VIEW activations AS SELECT sae_key, feature, token, value FROM activations_f32")
        db.execute("CREATE VIEW exemplars AS SELECT * FROM activations")
        db.execute("INSERT INTO activations_f32 VALUES (1, 3, 70, 2.5), (1, 4, 2, 1.5)")
        db.execute("INSERT INTO activations_u8 VALUES (2, 3, 71, 255)")
        db.execute("INSERT INTO activation_scales VALUES (2, 3, 8.0)")
        db.execute("DELETE FROM schema_version WHERE applied = 'm002_places'")
    with pytest.raises(SchemaVersionError, match="lacks m002_places"), open_reader(path):
        pass
    with open_writer(path) as db:
        pass
    with open_reader(path) as db:
        assert rows(db, "FROM activations ORDER BY ALL") == [
            (1, 3, 70, 2.5), (1, 4, 2, 1.5), (2, 3, 71, 8.0),
        ]  # fmt: skip
        assert rows(db, "SELECT DISTINCT stride FROM activations_f32") == [(0,)]
        assert rows(db, "FROM exemplars") == []

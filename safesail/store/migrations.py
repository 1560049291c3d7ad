"""Schema of the store, as an ordered list of migrations. Append; never edit a released one."""

from collections.abc import Callable
from pathlib import Path

import duckdb

from safesail.errors import DataError, SchemaVersionError
from safesail.store.schema import TABLES, VIEWS

Migration = Callable[[duckdb.DuckDBPyConnection], None]
MIGRATIONS: list[Migration] = []


def migration(step: Migration) -> Migration:
    """Register `step` as the next migration."""
    MIGRATIONS.append(step)
    return step


@migration
def m001_tables_and_views(db: duckdb.DuckDBPyConnection) -> None:
    """Every table of version 0.1, and the views that people query."""
    for statement in (*TABLES, *VIEWS):
        db.execute(statement)


@migration
def m002_places(db: duckdb.DuckDBPyConnection) -> None:
    """Activations of earlier stores get a stride of 0, by which their place is the token; no row is written anew.

    A new store has been made with these columns.
    """
    known = db.execute(
        "SELECT table_name FROM duckdb_columns() WHERE table_name IN ('activations_f32', 'activations_u8')"
        " AND column_name = 'token'"
    ).fetchall()
    for (table,) in known:
        db.execute(f"ALTER TABLE {table} RENAME token TO place")
        db.execute(f"ALTER TABLE {table} ADD COLUMN stride BIGINT DEFAULT 0")
    if known:
        for statement in VIEWS:
            db.execute(statement.replace("CREATE VIEW", "CREATE OR REPLACE VIEW", 1))


@migration
def m003_pair_isolation(db: duckdb.DuckDBPyConnection) -> None:
    """The measure that SAEs are ranked by gets a name of its own: RAVEL and SAEBench call another score isolation."""
    db.execute("UPDATE sae_scores SET measure = 'pair_' || measure WHERE starts_with(measure, 'isolation')")


def migrate(db: duckdb.DuckDBPyConnection) -> None:
    """Bring `db` up to the newest schema; each step commits whole or not at all.

    Raises:
        SchemaVersionError: the file holds migrations that this version does not know.
    """
    db.execute("CREATE TABLE IF NOT EXISTS schema_version (applied TEXT NOT NULL)")
    applied = _applied(db)
    for step in MIGRATIONS:
        if step.__name__ in applied:
            continue
        db.begin()
        try:
            step(db)
            db.execute("INSERT INTO schema_version VALUES (?)", [step.__name__])
        except BaseException:
            db.rollback()
            raise
        db.commit()


def check_version(db: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Refuse a file that this version cannot read as it is.

    Raises:
        DataError: it is a DuckDB file, but not a Safe-SAIL store.
        SchemaVersionError: it is newer, or older and not yet migrated.
    """
    try:
        applied = _applied(db)
    except duckdb.CatalogException as error:
        raise DataError(f"{path} is a DuckDB file, but not a Safe-SAIL store") from error
    if missing := [step.__name__ for step in MIGRATIONS if step.__name__ not in applied]:
        raise SchemaVersionError(f"{path} lacks {missing[0]}; open it once for writing to migrate it")


def _applied(db: duckdb.DuckDBPyConnection) -> set[str]:
    applied = {str(name) for (name,) in db.execute("SELECT applied FROM schema_version").fetchall()}
    if unknown := applied - {step.__name__ for step in MIGRATIONS}:
        raise SchemaVersionError(
            f"the store has migrations this version does not know ({sorted(unknown)[0]}); upgrade safesail"
        )
    return applied

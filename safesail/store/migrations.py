"""Steps that bring stores of earlier versions to the newest schema. Append; never edit a released one."""

from collections.abc import Callable
from pathlib import Path

import duckdb

from safesail.errors import DataError, SchemaVersionError
from safesail.store.schema import TABLES, VIEWS
from safesail.store.sql import Db, rows, transaction

Migration = Callable[[Db], None]
MIGRATIONS: list[Migration] = []
"""In order. A new store gets the newest tables at once, and runs none of them."""


def migration(step: Migration) -> Migration:
    """Register `step` as the next migration."""
    MIGRATIONS.append(step)
    return step


@migration
def m001_tables_and_views(db: Db) -> None:
    """The first version's tables: every store has them."""


@migration
def m002_places(db: Db) -> None:
    """Activations get a stride of 0, by which their place is the token; no row is written anew."""
    for table in ("activations_f32", "activations_u8"):
        db.execute(f"ALTER TABLE {table} RENAME token TO place")
        db.execute(f"ALTER TABLE {table} ADD COLUMN stride BIGINT DEFAULT 0")


@migration
def m003_names(db: Db) -> None:
    """Names that say what they mean: a sort key, and a measure that no other work calls by the same name."""
    for table in ("activations_f32", "activations_u8"):
        db.execute(f"ALTER TABLE {table} RENAME place TO sort_key")
    db.execute("UPDATE sae_scores SET measure = 'pair_' || measure WHERE starts_with(measure, 'isolation')")


@migration
def m004_origin_of_scores(db: Db) -> None:
    """Scores get their run and settings, unknown for those that are there, and one row for each way of scoring."""
    db.execute("ALTER TABLE scores RENAME TO scores_before")
    db.execute(next(table for table in TABLES if "CREATE TABLE scores (" in table))
    db.execute("INSERT INTO scores BY NAME FROM scores_before ORDER BY ordinal")
    db.execute("DROP TABLE scores_before")


@migration
def m005_separations(db: Db) -> None:
    """How features grade a concept's texts: empty for selections made before, which know no readout."""
    db.execute(next(table for table in TABLES if "CREATE TABLE separations (" in table))


@migration
def m006_no_histogram_rows(db: Db) -> None:
    """Histograms are files while a harvest is under way, and of no use once its statistics are computed."""
    db.execute("DROP TABLE activation_bins")


@migration
def m007_lookup_beside_scores(db: Db) -> None:
    """Scores get the look-up baseline and the interval of what they gain over it, unknown for those there are."""
    for column in ("lookup", "gain_low", "gain_high"):
        db.execute(f"ALTER TABLE scores ADD COLUMN IF NOT EXISTS {column} DOUBLE")


@migration
def m008_pools(db: Db) -> None:
    """Which features were scored together."""
    db.execute("CREATE SEQUENCE pool_order START 1")
    db.execute(next(table for table in TABLES if "CREATE TABLE pools (" in table))


@migration
def m009_aliases_of_saes(db: Db) -> None:
    """Where an imported SAE has been proven to be one at hand, its other name is remembered."""
    db.execute(next(table for table in TABLES if "CREATE TABLE sae_aliases (" in table))


@migration
def m010_effects_of_features(db: Db) -> None:
    """What features do, and which tokens their directions point to: nothing is known of either yet."""
    for name in ("effects", "logit_lens"):
        db.execute(next(table for table in TABLES if f"CREATE TABLE {name} (" in table))


@migration
def m011_intruder_scores(db: Db) -> None:
    """Features get scores that need no explanation."""
    db.execute(next(table for table in TABLES if "CREATE TABLE intruder_scores (" in table))


def migrate(db: Db) -> None:
    """Bring `db` to the newest schema, whole or not at all; an empty database gets it at once.

    Raises:
        SchemaVersionError: the file holds migrations that this version does not know.
    """
    db.execute("CREATE TABLE IF NOT EXISTS schema_version (applied TEXT NOT NULL)")
    applied = _applied(db)
    missing = [step for step in MIGRATIONS if step.__name__ not in applied]
    if not missing:
        return
    with transaction(db):
        if applied:
            for step in missing:
                step(db)
        else:
            for statement in TABLES:
                db.execute(statement)
        for statement in VIEWS:
            db.execute(statement)
        for step in missing:
            db.execute("INSERT INTO schema_version VALUES (?)", [step.__name__])


def check_version(db: Db, path: Path) -> None:
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
        raise SchemaVersionError(
            f"{path} was written by an older version (it lacks {missing[0]}); "
            f"bring it up to date: safesail migrate --store {path}"
        )


def _applied(db: Db) -> set[str]:
    applied = {str(name) for (name,) in rows(db, "SELECT applied FROM schema_version")}
    if unknown := applied - {step.__name__ for step in MIGRATIONS}:
        raise SchemaVersionError(
            f"the store has migrations this version does not know ({sorted(unknown)[0]}); upgrade safesail"
        )
    return applied

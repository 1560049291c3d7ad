"""A release's Parquet files, opened in the place of a store's tables: nothing is copied."""

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from safesail.errors import DataError
from safesail.store.connection import Db, open_memory
from safesail.store.sql import one, rows

_TABLES = ("features", "explanations", "tags", "scores", "concepts", "feature_concepts", "effects")
"""Tables that a store and a release both have; windows and activations are in the release's exemplars."""

_LATER = ("effects",)
"""Tables that releases of earlier versions of the format do not have: empty there."""

_RENAMED = {"feature": '"index"', "candidate": "true"}
"""Columns of the store that a release has under another name, or for which all its rows have one value."""

_N_CTX = 65_536
"""Most tokens of an exemplar."""

_VIEWS = {
    "live_tags": 'SELECT sae_id, "index" AS feature, tag, source, severity, position AS ordinal FROM release.tags',
    "windows": """
        SELECT s.sae_key AS harvest_key, x.file_row_number AS window_id, x.document_id, x.start, x.split,
               CAST([] AS INTEGER[]) AS token_ids, x.tokens
        FROM release.exemplars x JOIN saes s USING (sae_id)
    """,
    "active_windows": """
        SELECT s.sae_key, x."index" AS feature, s.sae_key AS harvest_key, x.file_row_number AS window_id, x.maximum,
               list_filter(CAST(range(len(x.activations)) AS INTEGER[]), lambda i: x.activations[i + 1] <> 0)
                   AS positions,
               list_filter(x.activations, lambda v: v <> 0) AS activations
        FROM release.exemplars x JOIN saes s USING (sae_id)
    """,
    "activations": f"""
        SELECT sae_key, feature, harvest_key, window_id * {_N_CTX} + position AS token, window_id, position, value
        FROM (SELECT sae_key, feature, harvest_key, window_id, unnest(positions) AS position,
                     unnest(activations) AS value FROM active_windows)
    """,
    "exemplars": """
        SELECT sae_id, feature AS "index", window_id, document_id, split, a.maximum, tokens, positions, activations
        FROM active_windows a JOIN saes USING (sae_key) JOIN windows USING (harvest_key, window_id)
    """,
}
"""A window of a release belongs to one feature, and its number is that of its row."""


@contextmanager
def open_release(
    folder: Path,
    models: Iterable[Mapping[str, Any]],
    saes: Iterable[Mapping[str, Any]],
    *,
    catalog: Path | None = None,
) -> Generator[Db, None, None]:
    """A database in memory whose tables and views are those of a store, over the files of a verified release.

    The files as they are lie in the schema `release`. No other file can be reached once the database is locked.

    Args:
        folder: The release.
        models: Rows of `subject_models`.
        saes: Rows of `saes`, without their keys.
        catalog: The view `catalog` of this release, as `write_catalog` wrote it; None: it is computed when asked for.

    Raises:
        DataError: a file is no Parquet.
    """
    with open_memory() as db:
        _insert(db, models, saes)
        db.execute("CREATE SCHEMA release")
        names = [t for t in (*_TABLES, "exemplars") if t not in _LATER or (folder / f"{t}.parquet").is_file()]
        paths = {table: folder.absolute() / f"{table}.parquet" for table in names}
        with parquet_faults(folder):
            for table, path in paths.items():
                db.execute(f"CREATE VIEW release.{table} AS SELECT *, file_row_number FROM {_parquet(path)}")
            for table in _TABLES:
                if table in paths:
                    _replace(db, table, f"SELECT {_columns(db, table)} FROM release.{table}")
                else:
                    db.execute(
                        f'CREATE VIEW release.{table} AS SELECT feature AS "index", * EXCLUDE (feature),'
                        f" CAST(0 AS BIGINT) AS file_row_number FROM main.{table}"
                    )
            for view, select in _VIEWS.items():
                _replace(db, view, select)
            if catalog is not None:
                paths["catalog"] = catalog.absolute()
                columns = "* EXCLUDE (file_row_number)"
                _replace(db, "catalog", f"SELECT {columns} FROM {_parquet(paths['catalog'])}")
        db.execute("SET allowed_paths = ?", [[str(path) for path in paths.values()]])
        yield db


def write_catalog(db: Db, path: Path) -> None:
    """Write the view `catalog` as Parquet: of a million features it takes seconds to compute."""
    db.sql('SELECT * FROM catalog ORDER BY sae_id, "index"').write_parquet(str(path), compression="zstd")


def _parquet(path: Path) -> str:
    quoted = str(path).replace("'", "''")
    return f"read_parquet('{quoted}', file_row_number = true, hive_partitioning = false)"


@contextmanager
def parquet_faults(where: Path) -> Generator[None, None, None]:
    """Errors of reading Parquet as one line.

    Raises:
        DataError: a file cannot be read.
    """
    try:
        yield
    except duckdb.Error as error:
        raise DataError(f"{where} holds no sound Parquet: {' '.join(str(error).split())[:300]}") from error


def _insert(db: Db, models: Iterable[Mapping[str, Any]], saes: Iterable[Mapping[str, Any]]) -> None:
    for table, entries in (("subject_models", models), ("saes", saes)):
        for entry in entries:
            names, values = list(entry), ["?"] * len(entry)
            if table == "saes":
                names, values = [*names, "sae_key"], [*values, "nextval('sae_keys')"]
            db.execute(
                f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(values)})",
                list(entry.values()),
            )
    db.execute(
        "INSERT INTO harvests (harvest_key, harvest_id, model_id, fingerprint, settings, n_ctx, finished)"
        f" SELECT sae_key, concat('release:', sae_id), model_id, 'not stated', '{{}}', {_N_CTX}, true FROM saes"
    )
    db.execute("INSERT INTO harvest_saes (sae_key, harvest_key) SELECT sae_key, sae_key FROM saes")


def _columns(db: Db, table: str) -> str:
    """The store's columns of a table, out of the release's; what a release does not hold has the store's default."""
    given = {str(row[0]) for row in rows(db, f"DESCRIBE release.{table}")}
    parts: list[str] = []
    for name, kind, default in rows(
        db,
        "SELECT column_name, data_type, column_default FROM duckdb_columns()"
        " WHERE schema_name = 'main' AND table_name = ? ORDER BY column_index",
        [table],
    ):
        source = name if name in given else _RENAMED.get(name) or default or "NULL"
        parts.append(f"CAST({source} AS {kind}) AS {name}")
    return ", ".join(parts)


def _replace(db: Db, name: str, select: str) -> None:
    """A view in the place of a table or view; other views find it by its name."""
    kind = one(
        db,
        "SELECT table_type FROM information_schema.tables WHERE table_schema = 'main' AND table_name = ?",
        [name],
    )
    if kind is not None:
        db.execute(f"DROP {'VIEW' if kind[0] == 'VIEW' else 'TABLE'} main.{name}")
    db.execute(f"CREATE VIEW main.{name} AS {select}")


def first_broken(db: Db, table: str, conditions: Mapping[str, str]) -> tuple[str, str] | None:
    """The first condition that a row of `release.<table>` does not meet, by its name, and that row.

    Args:
        db: As `open_release` gives it.
        table: A table of the release.
        conditions: SQL by name; one that is NULL is met.
    """
    first_faults = one(
        db,
        f"SELECT {', '.join(f'min(file_row_number) FILTER (NOT ({c}))' for c in conditions.values())}"
        f" FROM release.{table}",
    )
    assert first_faults is not None
    broken = next(
        ((name, row) for name, row in zip(conditions, first_faults, strict=True) if row is not None), None
    )
    return None if broken is None else (broken[0], f"row {broken[1] + 1}")


def first_row(db: Db, select: str) -> str | None:
    """The cells of the first row of a query, joined by `#`; None where it has none."""
    row = one(db, f"{select} LIMIT 1")
    return None if row is None else "#".join(map(str, row))


def first_repeated(db: Db, table: str, columns: Iterable[str]) -> str | None:
    """Cells of `columns` that two rows of a table share."""
    return first_row(db, f"SELECT {_quoted(columns)} FROM release.{table} GROUP BY ALL HAVING count(*) > 1")


def first_lost(db: Db, table: str, columns: Iterable[str], target: str) -> str | None:
    """Cells of `columns` that a table has and `target` (`release.features`, `saes`) has not; NULL refers to nothing."""
    names = list(columns)
    known = " AND ".join(f'"{name}" IS NOT NULL' for name in names)
    return first_row(
        db,
        f"SELECT {_quoted(names)} FROM release.{table} ANTI JOIN {target} USING ({_quoted(names)}) WHERE {known}",
    )


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def release_counts(db: Db, *, every_score: bool = False) -> dict[str, Any]:
    """What a release holds, by name.

    Args:
        db: As `open_release` gives it.
        every_score: Count and average all scores, as the first releases did, and not those that the catalog shows,
            which have no mean where they were made in several ways.
    """
    scores = "scores" if every_score else "headline_scores"
    one_way = f"CASE WHEN {every_score} OR count(DISTINCT (method, simulator, settings_hash)) = 1 THEN"
    row = one(
        db,
        f"""
        SELECT
            (SELECT count(*) FROM features),
            (SELECT count(DISTINCT (sae_id, feature)) FROM explanations WHERE text IS NOT NULL),
            (SELECT count(*) FROM explanations WHERE masked),
            (SELECT count(*) FROM explanations WHERE error IS NOT NULL),
            count(value), count(*) - count(value), {one_way} avg(value ORDER BY value) END,
            {one_way} avg(chance ORDER BY chance) END,
            (SELECT count(DISTINCT (sae_id, feature)) FROM tags),
            {one_way} avg(lookup ORDER BY lookup) END,
            CASE WHEN count(lookup) > 0 THEN count(*) FILTER (gain_low > 0) END,
            CASE WHEN count(lookup) > 0 THEN count(*) FILTER (gain_high < 0) END
        FROM {scores}
        """,
    )
    assert row is not None
    return dict(zip(
        ("features", "explained", "masked", "failed", "scored", "undefined", "mean_score", "mean_chance", "tagged",
         "mean_lookup", "beyond_lookup", "below_lookup"),
        row, strict=True,
    ))  # fmt: skip


def score_summary(db: Db) -> list[dict[str, Any]]:
    """Scores by the way in which they were made: method, simulator, how many, and how many beat their chance line."""
    return (
        db.sql(
            """
        SELECT method, simulator, count(value) AS scored,
               count(*) FILTER (value IS NULL AND error IS NULL) AS undefined, count(error) AS failed,
               median(value) AS median, avg(chance ORDER BY chance) AS chance,
               count(*) FILTER (low > chance) AS above_chance,
               count(*) FILTER (low IS NOT NULL AND chance IS NOT NULL) AS comparable,
               count(*) FILTER (gain_low > 0) AS beyond_lookup, count(gain_low) AS compared
        FROM scores GROUP BY method, simulator ORDER BY scored DESC, method, simulator
        """
        )
        .to_arrow_table()
        .to_pylist()
    )


def effects_shown(db: Db) -> dict[str, int]:
    """Measured features by whether they are shown to do something."""
    return {
        str(effect): int(n)
        for effect, n in rows(db, "SELECT effect, count(*) FROM feature_effects GROUP BY 1")
    }


def release_origins(db: Db) -> dict[str, int]:
    """Explanations of a release by origin."""
    return {
        str(origin): int(n)
        for origin, n in rows(db, "SELECT origin, count(*) FROM explanations GROUP BY 1 ORDER BY 1")
    }

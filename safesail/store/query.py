"""SQL of strangers, read-only: no file, network, extension or setting is within its reach."""

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import duckdb
import pyarrow as pa

from safesail.errors import ConfigError
from safesail.store.arrow import ArrowBatch, ArrowTable
from safesail.store.connection import Db
from safesail.store.sql import value

MAX_SQL = 100_000
"""Characters of a statement."""

_TABLE_FUNCTIONS = {"range", "generate_series", "unnest", "json_each", "json_tree", "summary"}
_REFUSED_FUNCTIONS = {
    "current_setting", "getvariable", "write_log", "json_execute_serialized_sql", "nextval", "currval",
    "pg_get_viewdef", "set_config", "getenv",
}  # fmt: skip
_REFUSED_TABLES = ("duckdb_", "pragma_", "sqlite_", "pg_")


def lock(db: Db, *, memory: str, threads: int = 2) -> None:
    """Close an open database to everything outside it, for as long as it is open.

    Args:
        db: An open store.
        memory: Most memory of DuckDB's own, such as `"1GB"`; nothing spills to disk.
        threads: Most threads.

    Raises:
        ConfigError: `memory` is no size.
    """
    try:
        db.execute("SET memory_limit = ?", [memory])
    except duckdb.Error as error:
        raise ConfigError(f"{memory!r} is not a memory limit such as 500MB or 2GB") from error
    for setting in (
        f"threads = {int(threads)}",
        "temp_directory = ''",
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        "allow_community_extensions = false",
        "python_enable_replacements = false",
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        db.execute(f"SET {setting}")


def check_select(db: Db, sql: str) -> None:
    """Refuse everything but one SELECT-like statement on the store's own tables and views.

    Raises:
        ConfigError: what is refused, and why.
    """
    if len(sql) > MAX_SQL:
        raise ConfigError(f"the query has {len(sql):,} characters; at most {MAX_SQL:,} are read")
    try:
        statements = db.extract_statements(sql)
    except duckdb.Error as error:
        raise ConfigError(_one_line(error)) from error
    if len(statements) != 1:
        raise ConfigError(f"a query is one statement, this is {len(statements)}")
    if statements[0].type != duckdb.StatementType.SELECT:
        kind = statements[0].type.name
        raise ConfigError(
            f"only SELECT (or FROM, WITH, VALUES, SHOW, DESCRIBE, SUMMARIZE) may be asked, not {kind}"
        )
    try:
        # A SELECT may delete inside WITH; then DuckDB does not count it as one.
        tree = json.loads(value(db, "SELECT json_serialize_sql(?)", [sql]))
    except duckdb.Error as error:
        raise ConfigError(_one_line(error)) from error
    except RecursionError as error:
        raise ConfigError("the query is nested too deeply") from error
    if tree["error"]:
        raise ConfigError(f"the query cannot be checked: {tree.get('error_message', 'unknown statement')}")
    _check_tree(tree["statements"])


def _check_tree(tree: Any) -> None:
    """Walk the parsed statement; functions and tables are refused by name."""
    nodes = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, list):
            nodes.extend(node)
            continue
        if not isinstance(node, dict):
            continue
        nodes.extend(node.values())
        name = str(node.get("function_name", "")).lower()
        table = str(node.get("table_name", "")).strip('"').lower()
        if name in _REFUSED_FUNCTIONS:
            raise ConfigError(f"{name}() may not be called in a query")
        if node.get("type") == "TABLE_FUNCTION":
            called = str((node.get("function") or {}).get("function_name", "")).lower()
            if called not in _TABLE_FUNCTIONS:
                raise ConfigError(
                    f"{called}() may not be called in a query; read the store's tables and views"
                )
        if node.get("type") == "BASE_TABLE" and table.startswith(_REFUSED_TABLES):
            raise ConfigError(
                f"{table} may not be read; SHOW TABLES and information_schema say what there is"
            )


def select(db: Db, sql: str, *, timeout: float, max_bytes: int) -> ArrowTable:
    """The result of one checked statement on a locked database.

    Args:
        db: A database after `lock`.
        sql: The statement.
        timeout: Seconds until it is interrupted.
        max_bytes: Largest result.

    Raises:
        ConfigError: the statement is refused or wrong, takes too long, too much memory, or gives too much.
    """
    check_select(db, sql)
    batches: list[ArrowBatch] = []
    n_bytes = 0
    try:
        with _interrupted_after(db, timeout), db.sql(sql).to_arrow_reader(65_536) as reader:
            schema = reader.schema
            for batch in reader:
                batches.append(batch)
                n_bytes += batch.nbytes
                if n_bytes > max_bytes:
                    raise ConfigError(f"the result is larger than {max_bytes:,} bytes; add a LIMIT")
    except duckdb.InterruptException as error:
        raise ConfigError(
            f"the query took longer than {timeout:g} s and was stopped; --timeout allows more"
        ) from error
    except (duckdb.OutOfMemoryException, MemoryError) as error:
        raise ConfigError("the query needs more memory than it may have; --memory allows more") from error
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        if "INTERRUPT" in str(error).upper():
            raise ConfigError(f"the query took longer than {timeout:g} s and was stopped") from error
        if "out of memory" in str(error).lower():
            raise ConfigError("the query needs more memory than it may have; --memory allows more") from error
        raise ConfigError(_one_line(error)) from error
    return pa.Table.from_batches(batches, schema)


@contextmanager
def _interrupted_after(db: Db, seconds: float) -> Generator[None, None, None]:
    timer = threading.Timer(seconds, db.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("LINE", "^"))]
    return " ".join(kept)[:500] or type(error).__name__


def hold_catalog(db: Db) -> None:
    """Compute the view `catalog` once, into a temporary table that stands before it."""
    db.execute('CREATE OR REPLACE TEMP TABLE catalog AS SELECT * FROM main.catalog ORDER BY sae_id, "index"')
    db.execute('CREATE INDEX catalog_index ON catalog ("index")')

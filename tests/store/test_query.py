"""SQL of strangers: nothing but the store's own tables can be read, and nothing written."""

from collections.abc import Generator
from pathlib import Path

import pandas as pd
import pytest

from safesail.errors import ConfigError
from safesail.store.connection import Db, open_reader, open_writer
from safesail.store.query import hold_catalog, lock, select


@pytest.fixture
def locked(tmp_path: Path) -> Generator[Db, None, None]:
    path = tmp_path / "store.duckdb"
    with open_writer(path) as db:
        db.execute("INSERT INTO features (sae_id, feature) SELECT 's', i FROM range(10) t(i)")
    (tmp_path / "secret.csv").write_text("key\nhunter2\n")
    with open_reader(path) as db:
        lock(db, memory="200MB")
        yield db


def ask(db: Db, sql: str, *, timeout: float = 10.0, max_bytes: int = 10**7) -> list[dict[str, object]]:
    return select(db, sql, timeout=timeout, max_bytes=max_bytes).to_pylist()


ALLOWED = {
    "SELECT count(*) AS n FROM features": [{"n": 10}],
    "FROM features SELECT max(feature) AS n": [{"n": 9}],
    "WITH RECURSIVE t AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM t WHERE i < 5) SELECT max(i) AS n FROM t": [
        {"n": 5}
    ],
    "VALUES (1)": [{"col0": 1}],
    "SELECT sum(i)::INTEGER AS n FROM range(4) t(i)": [{"n": 6}],
    "SELECT count(*) > 5 AS yes FROM information_schema.tables WHERE table_name LIKE '%s'": [{"yes": True}],
}


@pytest.mark.parametrize("sql", ALLOWED)
def test_questions_are_answered(sql: str, locked: Db) -> None:
    assert ask(locked, sql) == ALLOWED[sql]


def test_tables_can_be_listed_and_described(locked: Db) -> None:
    assert {"catalog", "exemplars", "ledger", "scores"} <= {row["name"] for row in ask(locked, "SHOW TABLES")}
    assert {"index", "explanation"} <= {row["column_name"] for row in ask(locked, "DESCRIBE catalog")}


HOSTILE = {
    "read a file": ("SELECT * FROM read_csv('{dir}/secret.csv')", "read_csv"),
    "read text": ("SELECT * FROM read_text('{dir}/secret.csv')", "read_text"),
    "read by name": ("SELECT * FROM '{dir}/secret.csv'", "does not exist|disabled"),
    "read within": ("SELECT (SELECT max(key) FROM read_csv('{dir}/secret.csv')) FROM features", "read_csv"),
    "read in a CTE": ("WITH x AS (FROM read_parquet('{dir}/*')) FROM x", "read_parquet"),
    "list a folder": ("SELECT * FROM glob('/*')", "glob"),
    "network": ("SELECT * FROM read_parquet('https://example.com/x.parquet')", "read_parquet"),
    "query as text": ("SELECT * FROM query('SELECT 1')", "query"),
    "query table": ("SELECT * FROM query_table('features')", "query_table"),
    "serialised": ("SELECT * FROM json_execute_serialized_sql('x')", "json_execute_serialized_sql"),
    "Python variable": ("SELECT * FROM secret_frame", "does not exist"),
    "write a file": ("COPY features TO '{dir}/out.csv'", "not COPY"),
    "export": ("EXPORT DATABASE '{dir}/out'", "not EXPORT"),
    "attach": ("ATTACH '{dir}/other.duckdb'", "not ATTACH"),
    "install": ("INSTALL httpfs", "not LOAD"),
    "load": ("LOAD httpfs", "not LOAD"),
    "set": ("SET memory_limit = '100GB'", "not SET"),
    "reset": ("RESET memory_limit", "not SET|not VARIABLE"),
    "pragma": ("PRAGMA database_list", "not PRAGMA"),
    "use": ("USE main", "not SET"),
    "call": ("CALL duckdb_settings()", "not CALL"),
    "settings": ("SELECT * FROM duckdb_settings()", "duckdb_settings"),
    "one setting": ("SELECT current_setting('memory_limit')", "current_setting"),
    "file's path": ("SELECT * FROM duckdb_databases()", "duckdb_databases"),
    "path by view": ("SELECT * FROM pragma_database_list", "may not be read"),
    "secrets": ("SELECT * FROM duckdb_secrets()", "duckdb_secrets"),
    "insert": ("INSERT INTO features (sae_id, feature) VALUES ('s', 99)", "not INSERT"),
    "delete": ("DELETE FROM features", "not DELETE"),
    "delete in a CTE": ("WITH x AS (DELETE FROM features RETURNING 1) SELECT * FROM x", "read-only"),
    "sequence": ("SELECT nextval('sae_keys')", "nextval"),
    "create": ("CREATE TEMP TABLE x AS SELECT 1", "not CREATE"),
    "drop": ("DROP TABLE features", "not DROP"),
    "prepare": ("PREPARE x AS SELECT 1", "not PREPARE"),
    "two statements": ("SELECT 1; SELECT 2", "one statement, this is 2"),
    "nothing": ("  ", "one statement, this is 0"),
    "explain analyze": ("EXPLAIN ANALYZE SELECT 1", "not EXPLAIN"),
    "nested": ("SELECT " + "(" * 3000 + "1" + ")" * 3000, "depth"),
    "endless text": ("SELECT 1 -- " + "x" * 200_000, "characters"),
    "bad syntax": ("SELEC 1", "syntax error"),
    "bad column": ("SELECT nope FROM features", "nope"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_sql_is_refused_and_leaves_no_trace(case: str, locked: Db, tmp_path: Path) -> None:
    secret_frame = pd.DataFrame({"key": ["hunter2"]})
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    sql, message = HOSTILE[case]
    with pytest.raises(ConfigError, match=message) as caught:
        ask(locked, sql.replace("{dir}", str(tmp_path)))
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert ask(locked, "SELECT count(*) AS n FROM features") == [{"n": 10}], "the connection is still of use"
    assert len(secret_frame) == 1


def test_a_locked_database_refuses_even_what_the_parser_would_let_through(locked: Db, tmp_path: Path) -> None:
    import duckdb

    for sql in (
        f"SELECT * FROM read_csv('{tmp_path}/secret.csv')",
        "SET enable_external_access = true",
        "SET lock_configuration = false",
        f"COPY features TO '{tmp_path}/out.csv'",
        "DELETE FROM features",
    ):
        with pytest.raises(duckdb.Error):
            locked.execute(sql)
    assert not (tmp_path / "out.csv").exists()


def test_endless_queries_are_stopped(locked: Db) -> None:
    for sql in (
        "SELECT count(*) FROM range(1000000) a, range(1000000) b",
        "WITH RECURSIVE t AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM t) SELECT max(i) FROM t",
    ):
        with pytest.raises(ConfigError, match=r"longer than 0.5 s"):
            ask(locked, sql, timeout=0.5)


def test_large_queries_are_stopped(locked: Db) -> None:
    with pytest.raises(ConfigError, match="more memory"):
        ask(locked, "SELECT list(i) FROM range(1000000000) t(i)")
    with pytest.raises(ConfigError, match="larger than 1,000,000 bytes"):
        ask(locked, "SELECT * FROM range(1000000000)", max_bytes=1_000_000)


def test_memory_must_be_a_size(db: Db) -> None:
    with pytest.raises(ConfigError, match="not a memory limit"):
        lock(db, memory="lots")


def test_the_held_catalog_stands_before_the_view(db: Db) -> None:
    hold_catalog(db)
    lock(db, memory="200MB")
    assert select(db, "SELECT count(*) AS n FROM catalog", timeout=5, max_bytes=10**6).to_pylist() == [
        {"n": 0}
    ]

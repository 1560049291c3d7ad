"""Queries in a process of their own."""

import io
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from safesail.catalog.api import open_catalog
from safesail.catalog.query import parse_memory, run_query
from safesail.errors import ConfigError, DataError, NotFoundError, StoreLockedError
from safesail.store.connection import open_writer
from tests.catalog.toy import SAE, TEXTS

BEST = 'SELECT "index", explanation, score, tags FROM catalog WHERE score IS NOT NULL ORDER BY score DESC LIMIT 2'
ROWS = [(0, TEXTS[0], 0.6, ["smuggling"]), (1, TEXTS[1], 0.4, ["insult", "violence"])]


def ask(store: Path, sql: str, **limits: Any) -> list[tuple[Any, ...]]:
    with run_query(store, sql, **limits) as result:
        return list(result.rows())


def test_a_store_and_a_release_answer_alike(store: Path, release: Path) -> None:
    with run_query(store, BEST) as result:
        assert result.columns == ("index", "explanation", "score", "tags")
        assert list(result.rows()) == ROWS
    assert ask(release, BEST) == ROWS


def test_results_as_csv_and_parquet(store: Path, tmp_path: Path) -> None:
    out = io.StringIO()
    with run_query(store, BEST + " OFFSET 1") as result:
        result.write_csv(out)
    lines = out.getvalue().splitlines()
    assert lines[0] == "index,explanation,score,tags"
    assert lines[1] == f'1,{TEXTS[1]},0.4,"[""insult"", ""violence""]"'
    with run_query(store, BEST + " OFFSET 1") as result:
        assert result.write_parquet(tmp_path / "r.parquet") == 2
    assert pq.read_table(tmp_path / "r.parquet").to_pylist()[0]["tags"] == ["insult", "violence"]
    assert ask(store, "SELECT 1 AS a WHERE false") == []


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT repeat('x', 1000000000)", "longer than 1 s|over a limit|more memory"),
        (
            "SELECT string_agg(repeat('x', 1000000)) FROM range(100000)",
            "more memory|larger than|longer|over a limit",
        ),
        ("SELECT count(*) FROM range(1000000) a, range(1000000) b", "longer than 1 s|over a limit"),
        ("SELECT * FROM range(1000000000)", "larger than"),
        ("SELECT * FROM read_text('/etc/passwd')", "read_text"),
        ("ATTACH '/tmp/x.duckdb'", "not ATTACH"),
    ],
)
def test_no_query_outlives_its_limits(store: Path, sql: str, message: str) -> None:
    began = time.monotonic()
    with pytest.raises(ConfigError, match=message):
        ask(store, sql, timeout=1, memory="200MB")
    assert time.monotonic() - began < 20


def test_errors_of_the_store_come_through(tmp_path: Path, store: Path) -> None:
    with pytest.raises(NotFoundError, match="no store at"):
        ask(tmp_path / "nowhere.duckdb", "SELECT 1")
    (tmp_path / "text.duckdb").write_text("no database" * 1000)
    with pytest.raises(DataError, match="cannot be opened"):
        ask(tmp_path / "text.duckdb", "SELECT 1")
    (tmp_path / "folder").mkdir()
    with pytest.raises(NotFoundError, match=r"without manifest\.json"):
        ask(tmp_path / "folder", "SELECT 1")
    with open_writer(store), pytest.raises(StoreLockedError, match="held by process"):
        ask(store, "SELECT 1")


@pytest.mark.parametrize("memory", ["lots", "1", "1TB", "-1GB", "1KB", ""])
def test_odd_limits_are_refused(store: Path, memory: str) -> None:
    with pytest.raises(ConfigError, match="not a memory limit"):
        ask(store, "SELECT 1", memory=memory)


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan"), 1e9])
def test_odd_timeouts_are_refused(store: Path, timeout: float) -> None:
    with pytest.raises(ConfigError, match="a timeout is"):
        ask(store, "SELECT 1", timeout=timeout)


def test_sizes() -> None:
    assert [parse_memory(text) for text in ("64MB", "1gb", " 2 GiB ")] == [2**26, 2**30, 2**31]


def test_python_gets_pandas(store: Path, release: Path) -> None:
    for path in (store, release):
        with open_catalog(path) as catalog:
            found = catalog.query(BEST)
            assert isinstance(found, pd.DataFrame)
            assert found["index"].tolist() == [0, 1]
            with pytest.raises(ConfigError, match="read_csv"):
                catalog.query("SELECT * FROM read_csv('/etc/passwd')")
    with open_catalog(store) as catalog:
        assert len(catalog.features()) == 16
        views = catalog.query("SELECT (SELECT count(*) FROM exemplars), (SELECT count(*) FROM ledger)")
        assert views.to_numpy().tolist() == [[3, 0]]
        assert set(catalog.query("SELECT DISTINCT sae_id FROM catalog")["sae_id"]) == {SAE}


def test_a_table_says_how_many_more_rows_there_are(store: Path) -> None:
    with run_query(store, "SELECT i FROM range(25000) t(i) ORDER BY i") as result:
        first, n_more = result.head(3)
    assert (first, n_more) == ([{"i": 0}, {"i": 1}, {"i": 2}], 24_997)
    with run_query(store, "SELECT 1 AS a") as result:
        assert result.head(3) == ([{"a": 1}], 0)


OUTLIVED = """
import sys, time
from pathlib import Path
from safesail.catalog.query import run_query
with run_query(Path(sys.argv[1]), "SELECT count(*) FROM range(1000000) a, range(1000000) b", timeout=600):
    pass
"""


def test_a_query_does_not_outlive_the_process_that_asked(store: Path) -> None:
    import psutil

    with subprocess.Popen([sys.executable, "-c", OUTLIVED, str(store)]) as parent:
        children: list[psutil.Process] = []
        while not children:
            time.sleep(0.05)
            children = psutil.Process(parent.pid).children(recursive=True)
        parent.kill()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive


@pytest.mark.parametrize("form", [[], ["--csv"], ["--json"]])
def test_a_reader_that_has_seen_enough_ends_a_query_quietly(form: list[str], store: Path) -> None:
    sql = "SELECT repeat('x', 1000) AS x FROM range(100000)"
    command = [
        sys.executable,
        "-m",
        "safesail",
        "catalog",
        "query",
        sql,
        *form,
        "--limit",
        "100000",
        "--store",
        store,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asked:
        assert asked.stdout is not None
        assert asked.stderr is not None
        asked.stdout.readline()
        asked.stdout.close()
        assert (asked.wait(), asked.stderr.read()) == (0, b"")

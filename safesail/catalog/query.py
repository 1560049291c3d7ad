"""`safesail catalog query`: one SELECT, in a process of its own that ends when its time or memory is up.

DuckDB's limits do not reach inside one call of a function such as `repeat`; a process can be stopped.
"""

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from safesail import errors
from safesail.catalog.source import open_source
from safesail.errors import ConfigError, SafeSailError
from safesail.store.arrow import ArrowTable
from safesail.store.connection import Db
from safesail.store.query import lock, select

GRACE_SECONDS = 5.0
"""For the process to start and open the store, before its time runs."""

_UNITS = {"KB": 2**10, "MB": 2**20, "GB": 2**30, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_CODE_BYTES = 3 * 2**30
"""Address space that the interpreter, DuckDB, Arrow and their threads reserve before any query."""


@dataclass(frozen=True)
class QueryResult:
    """Columns and rows of a query."""

    table: ArrowTable

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in order; two may be alike."""
        return tuple(self.table.column_names)

    @property
    def rows(self) -> list[tuple[Any, ...]]:
        """Rows as Python values; null is None."""
        return list(zip(*(column.to_pylist() for column in self.table.columns), strict=True))

    def write_csv(self, out: IO[str]) -> None:
        """As CSV; lists and structures as JSON, null as an empty cell."""
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([[_cell(cell) for cell in row] for row in self.rows])

    def write_parquet(self, path: Path) -> None:
        """As Parquet."""
        pq.write_table(self.table, path, compression="zstd")


def run_query(store: Path, sql: str, *, timeout: float = 30.0, memory: str = "1GB") -> QueryResult:
    """Ask a store or a release. Nothing but its own tables and views can be read, and nothing written.

    Args:
        store: A store, or a release's folder or zip.
        sql: One SELECT.
        timeout: Seconds.
        memory: Most memory, such as `"500MB"`; the result may have a quarter of it.

    Raises:
        ConfigError: the query is refused, wrong, or goes over a limit.
        DataError: the store cannot be read.
    """
    limit = parse_memory(memory)
    if not 0 < timeout <= 86_400:
        raise ConfigError(f"a timeout is a number of seconds above 0, not {timeout:g}")
    request = {"store": str(store.absolute()), "sql": sql, "timeout": timeout, "memory": limit}
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    try:
        done = subprocess.run(
            [sys.executable, "-c", "from safesail.catalog.query import child; child()"],
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=timeout + GRACE_SECONDS,
            env={**os.environ, "PYTHONPATH": path},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"the query took longer than {timeout:g} s and was stopped; --timeout allows more"
        ) from error
    return QueryResult(_answer(done))


def parse_memory(memory: str) -> int:
    """Bytes of a size such as `500MB`.

    Raises:
        ConfigError: not a size, or less than DuckDB needs.
    """
    found = re.fullmatch(r"\s*(\d{1,9})\s*([KMG]I?B)\s*", memory.upper())
    if not found or (limit := int(found[1]) * _UNITS[found[2]]) < 32 * 2**20:
        raise ConfigError(f"{memory!r} is not a memory limit such as 500MB or 2GB, and at least 32MB")
    return limit


def select_locked(db: Db, sql: str, *, timeout: float, limit: int) -> ArrowTable:
    """Lock an open catalog, and ask it."""
    lock(db, memory=f"{limit // 2**10}KiB")
    return select(db, sql, timeout=timeout, max_bytes=limit // 4)


def child() -> None:
    """The process behind `run_query`: a request on stdin, an Arrow stream or an error on stdout."""
    request: Mapping[str, Any] = json.loads(sys.stdin.buffer.read())
    _limit_address_space(int(request["memory"]))
    out = sys.stdout.buffer
    try:
        with open_source(Path(request["store"])) as db:
            table = select_locked(
                db, request["sql"], timeout=request["timeout"], limit=int(request["memory"])
            )
    except (SafeSailError, MemoryError) as error:
        kind = type(error).__name__ if isinstance(error, SafeSailError) else "ConfigError"
        out.write(b"E" + json.dumps([kind, str(error) or _TOO_MUCH]).encode())
    else:
        out.write(b"A")
        with pa.ipc.new_stream(out, table.schema) as writer:
            writer.write_table(table)
    out.flush()
    os._exit(0)  # a stopped query may leave threads behind that must not outlive it


_TOO_MUCH = "the query needs more memory than it may have; --memory allows more"


def _limit_address_space(memory: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limit: there DuckDB's own stands alone
        return
    resource.setrlimit(resource.RLIMIT_AS, (memory + _CODE_BYTES, memory + _CODE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _answer(done: subprocess.CompletedProcess[bytes]) -> ArrowTable:
    if done.stdout[:1] == b"A" and done.returncode == 0:
        return pa.ipc.open_stream(pa.py_buffer(done.stdout[1:])).read_all()
    if done.stdout[:1] == b"E":
        kind, message = json.loads(done.stdout[1:])
        raise getattr(errors, kind, ConfigError)(message)
    if b"Traceback" in done.stderr and b"MemoryError" not in done.stderr:
        raise RuntimeError(f"the query's process failed: {done.stderr.decode(errors='replace')[-2000:]}")
    raise ConfigError(f"the query ended its process (code {done.returncode}): it went over a limit")


def _cell(cell: Any) -> Any:
    if isinstance(cell, list | dict):
        return json.dumps(cell, ensure_ascii=False, default=str)
    return cell

"""`safesail catalog query`: one SELECT, in a process of its own that ends when its time or memory is up.

DuckDB's limits do not reach inside one call of a function such as `repeat`; a process can be stopped.
"""

import csv
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from safesail import errors
from safesail.catalog.source import is_release, open_source
from safesail.catalog.verify import release_folder
from safesail.domain.text import spreadsheet_text
from safesail.errors import ConfigError, SafeSailError
from safesail.files import whole_file
from safesail.store.arrow import ArrowBatch, ArrowSchema
from safesail.store.query import lock, select

GRACE_SECONDS = 5.0
"""For the process to start and open the store, before its time runs."""

_UNITS = {"KB": 2**10, "MB": 2**20, "GB": 2**30, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_CODE_BYTES = 3 * 2**30
"""Address space that the interpreter, DuckDB, Arrow and their threads reserve before any query."""

_FAILED = 3
"""Exit code of a query's process that says on stderr why."""


@dataclass(frozen=True)
class QueryResult:
    """Columns and rows of a query, read once."""

    schema: ArrowSchema
    batches: Iterable[ArrowBatch]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in order; two may be alike."""
        return tuple(self.schema.names)

    def rows(self) -> Generator[tuple[Any, ...], None, None]:
        """Rows as Python values, as they come; null is None."""
        for batch in self.batches:
            for chunk in range(0, batch.num_rows, 1000):
                part = batch.slice(chunk, 1000)
                yield from zip(*(column.to_pylist() for column in part.columns), strict=True)

    def records(self) -> Generator[dict[str, Any], None, None]:
        """Rows by column."""
        for row in self.rows():
            yield dict(zip(self.columns, row, strict=True))

    def head(self, limit: int) -> tuple[list[dict[str, Any]], int]:
        """The first rows by column, and how many more there are."""
        n_rows, first = 0, []
        for batch in self.batches:
            first.append(batch.slice(0, max(0, limit - n_rows)))
            n_rows += batch.num_rows
        records = list(QueryResult(self.schema, first).records())
        return records, n_rows - len(records)

    def write_csv(self, out: IO[str]) -> None:
        """As CSV; lists and structures as JSON, null as an empty cell, a `'` before what looks like a formula."""
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([_cell(cell) for cell in row] for row in self.rows())

    def write_parquet(self, path: Path) -> int:
        """As Parquet; returns the number of rows.

        Raises:
            DataError: `path` cannot be written.
        """
        n_rows = 0
        with (
            whole_file(path) as partial,
            pq.ParquetWriter(partial, self.schema, compression="zstd") as writer,
        ):
            for batch in self.batches:
                writer.write_batch(batch)
                n_rows += batch.num_rows
        return n_rows


@contextmanager
def run_query(
    store: Path, sql: str, *, timeout: float = 30.0, memory: str = "1GB"
) -> Generator[QueryResult, None, None]:
    """Ask a store or a release. Nothing but its own tables and views can be read, and nothing written.

    The process ends with the block, and with this one however that ends.

    Args:
        store: A store, or a release's folder or zip.
        sql: One SELECT.
        timeout: Seconds until the first row.
        memory: Most memory, such as `"500MB"`; the result may have a quarter of it.

    Raises:
        ConfigError: the query is refused, wrong, or goes over a limit.
        DataError: the store cannot be read.
    """
    limit = parse_memory(memory)
    if not 0 < timeout <= 86_400:
        raise ConfigError(f"a timeout is a number of seconds above 0, not {timeout:g}")
    # Verified here: the time and memory of the query's process are for the query.
    path = release_folder(store)[0] if is_release(store) else store
    request = {"store": str(path.absolute()), "sql": sql, "timeout": timeout, "memory": limit}
    package = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    with (
        tempfile.TemporaryFile() as faults,
        subprocess.Popen(
            [sys.executable, "-c", "from safesail.catalog.query import child; child()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=faults,
            env={**os.environ, "PYTHONPATH": paths},
        ) as process,
    ):
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            yield _result(process, faults, timeout)
        finally:
            process.kill()


def parse_memory(memory: str) -> int:
    """Bytes of a size such as `500MB`.

    Raises:
        ConfigError: not a size, or less than DuckDB needs.
    """
    size = re.fullmatch(r"\s*(\d{1,9})\s*([KMG]I?B)\s*", memory.upper())
    if not size or (limit := int(size[1]) * _UNITS[size[2]]) < 32 * 2**20:
        raise ConfigError(f"{memory!r} is not a memory limit such as 500MB or 2GB, and at least 32MB")
    return limit


def child() -> None:
    """The process behind `run_query`: a request on stdin, an Arrow stream on stdout or an error on stderr."""
    request: Mapping[str, Any] = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    memory = int(request["memory"])
    _limit_address_space(memory)
    try:
        with open_source(Path(request["store"])) as db:
            lock(db, memory=f"{memory // 2**10}KiB")
            table = select(db, request["sql"], timeout=request["timeout"], max_bytes=memory // 4)
    except (SafeSailError, MemoryError) as error:
        kind = type(error).__name__ if isinstance(error, SafeSailError) else "ConfigError"
        sys.stderr.write(json.dumps([kind, str(error) or _TOO_MUCH]))
        sys.stderr.flush()
        os._exit(_FAILED)  # a stopped query may leave threads behind that must not outlive it
    with pa.ipc.new_stream(sys.stdout.buffer, table.schema) as writer:
        writer.write_table(table, max_chunksize=10_000)
    sys.stdout.buffer.flush()
    os._exit(0)


_TOO_MUCH = "the query needs more memory than it may have; --memory allows more"


def _end_with_parent() -> None:
    """The other end of stdin is the parent's, and closes when that ends, killed or not."""
    sys.stdin.buffer.read()
    os._exit(_FAILED)


def _limit_address_space(memory: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limit: there DuckDB's own stands alone
        return
    resource.setrlimit(resource.RLIMIT_AS, (memory + _CODE_BYTES, memory + _CODE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _result(process: "subprocess.Popen[bytes]", faults: IO[bytes], timeout: float) -> QueryResult:
    """The result as soon as its columns are known.

    Raises:
        SafeSailError: what the process says, or that it was stopped.
    """
    late = threading.Event()

    def stop() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(timeout + GRACE_SECONDS, stop)
    timer.start()
    try:
        reader = pa.ipc.open_stream(process.stdout)
    except (pa.ArrowInvalid, OSError) as error:
        if late.is_set():
            raise ConfigError(
                f"the query took longer than {timeout:g} s and was stopped; --timeout allows more"
            ) from error
        raise _failure(process.wait(), faults) from error
    finally:
        timer.cancel()
    return QueryResult(reader.schema, _batches(reader))


def _batches(reader: Iterable[ArrowBatch]) -> Generator[ArrowBatch, None, None]:
    try:
        yield from reader
    except (pa.ArrowInvalid, OSError) as error:
        raise ConfigError("the query's process ended before all rows had come; ask again") from error


def _failure(code: int, faults: IO[bytes]) -> Exception:
    faults.seek(0)
    said = faults.read().decode(errors="replace")
    if code == _FAILED:
        kind, message = json.loads(said)
        return getattr(errors, kind, ConfigError)(message)
    if "Traceback" in said and "MemoryError" not in said:
        return RuntimeError(f"the query's process failed: {said[-2000:]}")
    return ConfigError(f"the query ended its process (code {code}): it went over a limit")


def _cell(cell: Any) -> Any:
    if isinstance(cell, list | dict):
        return json.dumps(cell, ensure_ascii=False, default=str)
    return spreadsheet_text(cell) if isinstance(cell, str) else cell

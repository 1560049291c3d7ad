"""Rows of JSON lines, CSV and Parquet files."""

import csv
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safesail.errors import ConfigError

_PARQUET_BATCH_ROWS = 1000

Row = dict[Any, Any]
"""Values by column; a CSV row with more cells than the header has them under None."""


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a .jsonl, .jsonl.gz, .csv or .parquet file, in order.

    Raises:
        ConfigError: it cannot be read as what its name says.
    """
    return {".csv": _csv_rows, ".parquet": _parquet_rows}.get(path.suffix, _json_rows)(path)


def _json_rows(path: Path) -> Iterator[Row]:
    opener = gzip.open if path.name.endswith(".gz") else open
    number = 0
    try:
        with opener(path, "rt", encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ConfigError(f"{path} line {number}: each line must be a JSON object")
                yield row
    except (ValueError, RecursionError, gzip.BadGzipFile, EOFError) as error:
        raise ConfigError(f"{path} after line {number}: not readable as JSON lines ({error})") from error


def _csv_rows(path: Path) -> Iterator[Row]:
    csv.field_size_limit(1 << 30)
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            yield from csv.DictReader(lines)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} is not readable as CSV ({error})") from error


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_PARQUET_BATCH_ROWS):
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise ConfigError(f"{path} is not readable as Parquet ({' '.join(str(error).split())})") from error

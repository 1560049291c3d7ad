"""Reading text that others wrote: strict JSON, with limits on size and depth. Knows nothing of catalogs."""

import gzip
import json
import math
from collections.abc import Generator
from pathlib import Path
from typing import Any, Never

from safesail.errors import DataError

MAX_JSON_BYTES = 512 * 2**20
"""Largest JSON document that is read whole."""

MAX_LINE_BYTES = 64 * 2**20
"""Longest line of a JSONL or CSV file."""

MAX_GZIP_RATIO = 200
"""A gzip file may grow this much when it is unpacked; text grows three- to twentyfold."""


def parse_json(text: str | bytes, where: str) -> Any:
    """One JSON document, refused where two readers could see two things in it.

    Raises:
        DataError: not UTF-8 or JSON, a repeated key, NaN, an infinite or overlong number, or nested too deeply.
    """
    try:
        content = text.decode("utf-8") if isinstance(text, bytes) else text
        return json.loads(
            content,
            object_pairs_hook=_object,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_short,
        )
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 text (byte {error.start})") from error
    except RecursionError as error:
        raise DataError(f"{where} is nested too deeply to be read") from error
    except ValueError as error:
        raise DataError(f"{where} is not sound JSON: {error}") from error


def read_json(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The JSON document at `path`.

    Raises:
        DataError: there is no such file, it is too large, or it is not sound JSON.
    """
    if not path.is_file():
        raise DataError(f"no file at {path}")
    if path.stat().st_size > max_bytes:
        raise DataError(f"{path} has {path.stat().st_size:,} bytes; at most {max_bytes:,} are read as JSON")
    return parse_json(path.read_bytes(), str(path))


def read_lines(path: Path) -> Generator[tuple[int, str], None, None]:
    """Lines of a text file, plain or `.gz`, that hold something, with their numbers.

    Raises:
        DataError: damaged gzip, not UTF-8, a line or the whole too long.
    """
    limit = path.stat().st_size * MAX_GZIP_RATIO + MAX_LINE_BYTES
    total = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            for number in _count():
                line = stream.readline(MAX_LINE_BYTES + 1)
                if not line:
                    return
                total += len(line)
                if len(line) > MAX_LINE_BYTES or total > limit:
                    raise DataError(f"{path} line {number} is too long, or the file unpacks to too much")
                if line.strip():
                    yield number, line.decode("utf-8")
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text") from error


def read_jsonl(path: Path) -> Generator[tuple[int, dict[str, Any]], None, None]:
    """Objects of a JSONL file with their line numbers.

    Raises:
        DataError: a line is not a sound JSON object.
    """
    for number, line in read_lines(path):
        where = f"{path} line {number}"
        value = parse_json(line, where)
        if not isinstance(value, dict):
            raise DataError(f"{where} must be an object, not {type(value).__name__}")
        yield number, value


def _count() -> Generator[int, None, None]:
    number = 0
    while True:
        number += 1
        yield number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {repeated!r} is there twice")
    return fields


def _no_constant(name: str) -> Never:
    raise ValueError(f"{name} is not a number that JSON knows")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:24]} is too large")
    return value


def _short(text: str) -> int:
    if len(text) > 19:
        raise ValueError(f"the number {text[:24]}... is too large")
    return int(text)

"""Reading documents from files, folders, data sets and standard input."""

import re
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import TextIO

from safesail.domain.ids import content_id
from safesail.domain.records import Document
from safesail.errors import ConfigError, NotFoundError
from safesail.text.rows import Row, read_rows
from safesail.text.splits import split_of

TEXT_COLUMNS = (
    "text",
    "content",
    "prompt",
    "question",
    "instruction",
    "sentence",
    "statement",
    "body",
    "test_case",
)
"""Names under which the text is looked for, in this order and in any case, when no column is named."""

_SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".csv", ".parquet")
_SAMPLE_ROWS = 50

_CHECKED_DOCUMENTS = 2_000
"""Documents of a source that are read before a run begins: some tenths of a second."""

_MIN_CHARACTERS = 200
"""Paragraphs of plain text are joined until a document has this many: about one window of tokens."""


def read_documents(sources: Sequence[str], *, column: str | None = None, seed: int = 0) -> Iterator[Document]:
    """Documents of all sources in order, each text once, empty texts left out.

    A source is a .txt file, .jsonl, .jsonl.gz, .csv or .parquet (one document per row), a folder (all such
    files in order of name), `hf:NAME[:split]` (a data set, streamed, with the user's own token where one is
    set), or `-` (standard input). Plain text becomes one document per paragraph, short ones joined, so that
    one file does not fall into one split. The text of a row is in `column`, or in the first of `TEXT_COLUMNS`
    that is there, or in the column of strings that is longest on average.

    Args:
        sources: names as above.
        column: the text's column, in files that have columns.
        seed: of the splits.

    Raises:
        NotFoundError: a source that is not there, or holds nothing to read.
        ConfigError: a file that cannot be read as what its name says, or has no column of text.
    """
    seen: set[str] = set()
    for source in sources:
        for name, read in _texts(source, column):
            text = _mended(read)
            document_id = content_id(text)
            if text.strip() and document_id not in seen:
                seen.add(document_id)
                yield Document(document_id, text, name, split_of(document_id, seed))


def read_texts(path: Path, *, column: str | None = None) -> list[str]:
    """Single texts, in order, repeated ones too: the lines of a .txt, the rows of .jsonl, .csv or .parquet.

    Raises:
        NotFoundError: no file there.
        ConfigError: it cannot be read as what its name says, or holds no text.
    """
    ((file, _),) = _files(str(path))[:1]
    lines = _decoded(file).splitlines() if file.name.endswith(".txt") else _file_texts(file, column)
    texts = [text for text in map(_mended, lines) if text.strip()]
    if not texts:
        raise ConfigError(f"no text in {path}")
    return texts


def check_sources(sources: Sequence[str], *, column: str | None = None) -> None:
    """Read the beginning of every source, so that what cannot be read is said before anything else is done.

    Pipes and data sets on the hub are left for later.

    Raises:
        NotFoundError: a source that is not there, or holds nothing to read.
        ConfigError: a file that cannot be read as what its name says, or without any text.
    """
    for source in sources:
        if source != "-" and not source.startswith("hf:"):
            n_documents = sum(1 for _ in islice(read_documents([source], column=column), _CHECKED_DOCUMENTS))
            if not n_documents:
                raise ConfigError(f"no text in {source}")


def _texts(source: str, column: str | None) -> Iterator[tuple[str, str]]:
    if source == "-":
        yield from (("stdin", text) for text in _paragraphs(_piped(sys.stdin)))
    elif source.startswith("hf:"):
        yield from ((source, text) for text in _column_texts(_hub_rows(source), column, source))
    else:
        for path, name in _files(source):
            yield from ((name, text) for text in _file_texts(path, column))


def _paragraphs(text: str) -> Iterator[str]:
    """Cut at blank lines, short paragraphs joined; a text too short to cut stays as it is."""
    start = 0
    for gap in re.finditer(r"\n\s*\n", text):
        if gap.start() - start >= _MIN_CHARACTERS:
            yield text[start : gap.start()]
            start = gap.end()
    yield text[start:]


@lru_cache(maxsize=1)
def _piped(stream: TextIO) -> str:
    """All of a pipe; kept, as it can be read once and a harvest may need to look again whether its text is the same."""
    try:
        return stream.read()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"standard input is not UTF-8 text (byte {error.start}); convert it first"
        ) from error


def _mended(text: str) -> str:
    r"""The text with halves of characters, such as `\ud83d` in JSON, joined where both are there, else U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _files(source: str) -> list[tuple[Path, str]]:
    """Files of a source with the names they get in the records: a folder's file is `folder/file`."""
    path = Path(source)
    if path.is_file():
        if not path.name.endswith(_SUFFIXES):
            raise ConfigError(f"{source}: cannot read this kind of file; use one of {', '.join(_SUFFIXES)}")
        return [(path, path.name)]
    if not path.is_dir():
        raise NotFoundError(f"no text at {source}: not a file, a folder, hf:NAME or -")
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name.endswith(_SUFFIXES))
    if not files:
        raise NotFoundError(f"folder {source} holds no text file ({', '.join(_SUFFIXES)})")
    folder = path.resolve().name
    return [(file, f"{folder}/{file.relative_to(path).as_posix()}") for file in files]


def _file_texts(path: Path, column: str | None) -> Iterator[str]:
    if path.name.endswith(".txt"):
        return _paragraphs(_decoded(path))
    return _column_texts(read_rows(path), column, str(path))


def _decoded(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}); convert it first") from error


def _hub_rows(source: str) -> Iterator[Row]:
    import datasets
    from datasets.exceptions import DatasetsError

    name, _, split = source.removeprefix("hf:").partition(":")
    try:
        yield from datasets.load_dataset(name, split=split or "train", streaming=True)
    except (OSError, ValueError, DatasetsError) as error:
        reason = " ".join(str(error).split())[:160]
        raise NotFoundError(f"cannot read data set {name}: {reason}") from error


def _column_texts(rows: Iterator[Row], column: str | None, where: str) -> Iterator[str]:
    head = list(islice(rows, _SAMPLE_ROWS))
    if not head:
        return
    chosen = _text_column(head, column, where)
    for row in chain(head, rows):
        value = row.get(chosen)
        if isinstance(value, str):
            yield value


def _text_column(head: list[Row], column: str | None, where: str) -> str:
    names = [name for name in head[0] if any(isinstance(row.get(name), str) for row in head)]
    if column is not None:
        if column not in head[0]:
            raise ConfigError(f"{where} has no column {column!r}; it has {', '.join(map(str, head[0]))}")
        return column
    if not names:
        raise ConfigError(f"{where} has no column of text; name one of {', '.join(map(str, head[0]))}")
    by_lower = {name.lower(): name for name in reversed(names)}
    for known in TEXT_COLUMNS:
        if known in by_lower:
            return by_lower[known]
    return max(names, key=lambda name: sum(len(str(row.get(name) or "")) for row in head))

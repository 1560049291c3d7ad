"""Plain CSV and JSONL, with a map of columns: any other catalog."""

import csv
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

from safesail.catalog.config import ColumnMap
from safesail.catalog.gather import Gathered
from safesail.catalog.importers.neuronpedia import layer_of_source
from safesail.catalog.importers.rows import FileRow, Text, parse_index
from safesail.catalog.reading import MAX_LINE_BYTES, read_jsonl, read_lines
from safesail.domain.ids import FeatureId, layer_of
from safesail.errors import ConfigError, DataError

METHOD = "as imported"
_REF = re.compile(r"(?:neuronpedia\.org/(?P<model>[^/]+)/)?(?P<source>[^/\s]+)/(?P<index>\d{1,9})$")
Cells = dict[str, Any]


class TableRow(FileRow):
    """The cells of the columns that are read."""

    cells: dict[str, Text | int | float | bool | list[Text | int | float | bool | None] | None]


def read(source: Path, into: Gathered) -> None:
    """A `.csv`, `.jsonl` or `.jsonl.gz` file, read by `options.columns`.

    Raises:
        ConfigError: the map names columns that the file lacks, or neither file nor options name the model.
        DataError: not a sound CSV or JSONL file.
    """
    columns = into.options.columns
    rows = _read_csv(source) if source.suffix == ".csv" else read_jsonl(source)
    met: set[str] = set()
    named = {name for name in columns.model_dump().values() if name is not None}
    for number, cells in rows:
        met |= cells.keys()
        where = f"{source} line {number}"
        chosen = {name: cell for name, cell in cells.items() if name in named}
        _read_row(where, TableRow.read({"cells": chosen}, where).cells, columns, into)
    if columns.ref is not None:
        named.discard(columns.index or "")
    if missing := sorted(named - met):
        raise ConfigError(
            f"{source} has no column {missing[0]!r}; it has {', '.join(sorted(met)) or 'no rows'}"
        )


def _read_csv(path: Path) -> Generator[tuple[int, Cells], None, None]:
    csv.field_size_limit(MAX_LINE_BYTES)
    reader = csv.DictReader((line for _, line in read_lines(path)), strict=True)
    try:
        names = reader.fieldnames or []
        if len(set(names)) != len(names):
            raise DataError(f"{path} names a column twice")
        for row in reader:
            if None in row or None in row.values():
                raise DataError(f"{path} line {reader.line_num} has not {len(names)} cells")
            yield reader.line_num, {name: cell or None for name, cell in row.items()}
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num} is not sound CSV: {error}") from error


def _read_row(where: str, cells: Cells, columns: ColumnMap, into: Gathered) -> None:
    feature = _feature(where, cells, columns, into)
    if feature is None:
        into.fault("no feature named", where)
        return
    if cells.get(columns.text) is None:
        into.fault("no text", where)
        return
    density = _number(where, cells, columns.density, into)
    into.feature(feature, density=density if density is None or 0 <= density <= 1 else None)
    text = _text(cells, columns.text)
    explanation_id = into.explanation(
        feature, text, lang=_text(cells, columns.lang), explainer=_text(cells, columns.explainer)
    )
    score = _number(where, cells, columns.score, into)
    if explanation_id is not None and score is not None:
        into.score(feature, explanation_id, score, method=METHOD)
    into.tags(feature, _tags(cells, columns.tags))


def _feature(where: str, cells: Cells, columns: ColumnMap, into: Gathered) -> FeatureId | None:
    """The feature that a row names, if it names one."""
    model, source, index = None, _text(cells, columns.sae), _text(cells, columns.index)
    if columns.ref is not None:
        match = _REF.search(_text(cells, columns.ref) or "")
        model, source, index = match.groups() if match else (None, None, None)
    number = parse_index(index)
    if number is None:
        return None
    layer = parse_index(_text(cells, columns.layer))
    if layer is None and source is not None:
        layer = layer_of_source(source)
    if layer is None and into.options.hook is not None:
        layer = layer_of(into.options.hook)
    name = source or into.options.name
    return FeatureId(into.sae(name, layer=layer, model=into.model_of(where, model)), number)


def _text(cells: Cells, column: str | None) -> str | None:
    cell = cells.get(column) if column is not None else None
    return None if cell is None else str(cell)


def _number(where: str, cells: Cells, column: str | None, into: Gathered) -> float | None:
    cell = cells.get(column) if column is not None else None
    if cell is None or isinstance(cell, bool | list | dict):
        return None
    try:
        return float(cell)
    except ValueError:
        into.fault("not a number", f"{where}: {str(cell)[:40]}")
        return None


def _tags(cells: Cells, column: str | None) -> list[str]:
    cell = cells.get(column) if column is not None else None
    parts = cell if isinstance(cell, list) else re.split(r"[;,]", str(cell or ""))
    return [tag for part in parts if (tag := str(part).strip())]

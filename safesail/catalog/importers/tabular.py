"""Plain CSV and JSONL, with a map of columns: any other catalog."""

import csv
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

from safesail.catalog.config import ColumnMap
from safesail.catalog.gather import Gathered
from safesail.catalog.importers.neuronpedia import layer_of_source
from safesail.catalog.reading import MAX_LINE_BYTES, read_jsonl, read_lines
from safesail.domain.ids import FeatureId, layer_of
from safesail.errors import ConfigError, DataError

METHOD = "as imported"
_REF = re.compile(r"(?:neuronpedia\.org/(?P<model>[^/]+)/)?(?P<source>[^/\s]+)/(?P<index>\d{1,9})$")
Cells = dict[str, Any]


def read(source: Path, into: Gathered) -> None:
    """A `.csv`, `.jsonl` or `.jsonl.gz` file, read by `options.columns`.

    Raises:
        ConfigError: the map names columns that the file lacks, or neither file nor options name the model.
        DataError: not a sound CSV or JSONL file.
    """
    columns = into.options.columns
    rows = _read_csv(source) if source.suffix == ".csv" else read_jsonl(source)
    met: set[str] = set()
    for number, cells in rows:
        met |= cells.keys()
        _read_row(f"{source} line {number}", cells, columns, into)
    named = {name for name in columns.model_dump().values() if name is not None}
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
    place = _place(where, cells, columns, into)
    text = cells.get(columns.text)
    if place is None:
        return
    if text is None:
        into.fault("no text", where)
        return
    feature = FeatureId(*place)
    density = _number(where, cells, columns.density, into)
    into.feature(feature, density=density if density is None or 0 <= density <= 1 else None)
    explanation_id = into.explanation(
        feature, str(text), lang=_text(cells, columns.lang), explainer=_text(cells, columns.explainer)
    )
    score = _number(where, cells, columns.score, into)
    if explanation_id is not None and score is not None:
        into.score(feature, explanation_id, score, method=METHOD)
    into.tags(feature, _tags(cells, columns.tags))


def _place(where: str, cells: Cells, columns: ColumnMap, into: Gathered) -> tuple[str, int] | None:
    """SAE and index of a row; None, and a fault, where it names none."""
    model, source, index = into.options.model, _text(cells, columns.sae), _text(cells, columns.index)
    if columns.ref is not None:
        found = _REF.search(_text(cells, columns.ref) or "")
        if found is None:
            into.fault("no feature named", where)
            return None
        model, source, index = found["model"] or model, found["source"], found["index"]
    if index is None or not (index.isascii() and index.isdigit() and len(index) < 10):
        into.fault("no feature named", where)
        return None
    if model is None:
        raise ConfigError(f"{where} does not say which model it explains; name it with --model")
    if into.options.model not in (None, model):
        raise DataError(f"{where} is about {model!r}, not {into.options.model!r}")
    return into.sae(
        source or into.options.name, layer=_layer(cells, columns, source, into), model=model
    ), int(index)


def _layer(cells: Cells, columns: ColumnMap, source: str | None, into: Gathered) -> int | None:
    stated = _text(cells, columns.layer)
    if stated is not None and stated.isdigit():
        return int(stated)
    found = layer_of_source(source) if source else None
    return found if found is not None or into.options.hook is None else layer_of(into.options.hook)


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

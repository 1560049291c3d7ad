"""Neuronpedia's export: `<modelId>/<sourceId>/{features,activations,explanations}/batch-N.jsonl.gz`.

Rows of one feature may lie in batches of different numbers, so they are joined by identity, never by batch.
"""

import re
from collections.abc import Generator, Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from safesail.catalog.gather import MAX_EXEMPLARS, Gathered
from safesail.catalog.importers.rows import Density, FileRow, Index, Text, WindowRow, files_of
from safesail.catalog.reading import read_jsonl
from safesail.domain.ids import FeatureId
from safesail.errors import DataError

FOLDER = "**/explanations*/batch-*.jsonl*"
BATCH_OF = re.compile(
    r"(?P<kind>features|activations|explanations(?:-[\w.-]+)?)/batch-(?P<number>\d{1,6})\.jsonl(?:\.gz)?"
)
"""A batch's path below its source; explanations may lie in several folders, one per explainer."""

_NOTED = "explainer: "
_LAYER = re.compile(r"^(\d+)-|_(\d+)$")


class _Row(FileRow):
    modelId: Text
    layer: Text
    """The source: `10-gemmascope-res-16k`."""

    index: Index


class FeatureRow(_Row):
    """A row of features/."""

    frac_nonzero: Density = None
    maxActApprox: float | None = None

    def add(self, feature: FeatureId, into: Gathered) -> None:
        """The feature's statistics."""
        if not into.feature(feature, density=self.frac_nonzero, maximum=self.maxActApprox):
            into.fault("repeated feature", str(feature))


class ExplanationRow(_Row):
    """A row of explanations/."""

    description: Text | None = None
    explanationModelName: Text | None = None
    typeName: Text | None = None
    notes: Text | None = None

    def add(self, feature: FeatureId, into: Gathered) -> None:
        """The feature's explanation."""
        by = " / ".join(name for name in (self.explanationModelName, self.typeName) if name)
        if not by and (self.notes or "").startswith(_NOTED):
            by = (self.notes or "").removeprefix(_NOTED)  # as Safe-SAIL's own export has it
        into.feature(feature)
        into.explanation(feature, self.description, explainer=by or None)


class ActivationRow(_Row, WindowRow):
    """A row of activations/."""

    def add(self, feature: FeatureId, into: Gathered) -> None:
        """A window in which the feature fires."""
        into.feature(feature)
        into.exemplar(feature, self.tokens, self.values)


def layer_of_source(source: str) -> int | None:
    """The layer in a source id such as `10-gemmascope-res-16k` or `resid_5`; None where it has none."""
    match = _LAYER.search(source)
    return int(match[1] or match[2]) if match else None


def read(source: Path, into: Gathered) -> None:
    """All batches below `source`, features first.

    Raises:
        DataError: no batches, or, unless a faulty file is to be left out, a row that is not in this format.
    """
    files_of(source, FOLDER)
    for kind, pattern in (
        ("features", "features"), ("explanations", "explanations*"), ("activations", "activations")
    ):  # fmt: skip
        paths = sorted(source.glob(f"**/{pattern}/batch-*.jsonl*"), key=_batch_number)
        _name_gaps(paths, source, into)
        for path in paths:
            with into.file(path.relative_to(source).as_posix()):
                _read_batch(path, kind, into)


def _read_batch(path: Path, kind: str, into: Gathered) -> None:
    if kind == "activations":
        _read_windows(path, into)
        return
    shape = FeatureRow if kind == "features" else ExplanationRow
    by = path.parent.name.partition("-")[2]
    for number, cells in read_jsonl(path):
        row = shape.read(cells, f"{path} line {number}")
        if isinstance(row, ExplanationRow) and row.explanationModelName is None and by:
            row = row.model_copy(update={"explanationModelName": by})
        row.add(_feature(row, f"{path} line {number}", into), into)


def _read_windows(path: Path, into: Gathered) -> None:
    """The strongest windows of each feature; the others are looked at no further than their size."""
    lines = read_jsonl(path)
    for _, of_one in groupby(lines, key=lambda line: (line[1].get("layer"), line[1].get("index"))):
        for number, cells in _strongest(of_one):
            row = ActivationRow.read(cells, f"{path} line {number}")
            row.add(_feature(row, f"{path} line {number}", into), into)


def _strongest(
    lines: Iterable[tuple[int, dict[str, Any]]],
) -> Generator[tuple[int, dict[str, Any]], None, None]:
    def strength(line: tuple[int, dict[str, Any]]) -> float:
        # What is no list of numbers comes first, and is refused by the row's own check.
        values: Any = line[1].get("values")
        sound = isinstance(values, list) and all(type(v) in (int, float) for v in values)
        return max(values, default=0.0) if sound else float("inf")

    yield from sorted(lines, key=strength, reverse=True)[: 2 * MAX_EXEMPLARS]


def _feature(row: _Row, where: str, into: Gathered) -> FeatureId:
    model = into.model_of(where, row.modelId)
    if into.tolerant and into.options.source not in (None, f"{row.modelId}/{row.layer}"):
        raise DataError(f"{where} is about {row.modelId}/{row.layer}, not {into.options.source}")
    return FeatureId(into.sae(row.layer, layer=layer_of_source(row.layer), model=model), row.index)


def _batch_number(path: Path) -> tuple[str, int]:
    match = re.search(r"batch-(\d+)", path.name)
    return (path.parent.as_posix(), int(match[1]) if match else 0)


def _name_gaps(paths: list[Path], source: Path, into: Gathered) -> None:
    """Batches are numbered from 0 without gaps; one that is missing is a fault."""
    for folder, of_one in groupby(paths, key=lambda path: path.parent):
        numbers = {_batch_number(path)[1] for path in of_one}
        for number in range(max(numbers)):
            if number not in numbers:
                into.fault("missing batch", f"{folder.relative_to(source).as_posix()}/batch-{number}")

"""Neuronpedia's export: `<modelId>/<sourceId>/{features,activations,explanations}/batch-N.jsonl.gz`.

Rows of one feature may lie in batches of different numbers, so they are joined by identity, never by batch.
"""

import re
from pathlib import Path

from safesail.catalog.gather import Gathered
from safesail.catalog.importers.rows import Density, FileRow, Index, Text, WindowRow, files_of
from safesail.catalog.reading import read_jsonl
from safesail.domain.ids import FeatureId

FOLDER = "**/explanations/batch-*.jsonl*"
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
        into.feature(feature, density=self.frac_nonzero, maximum=self.maxActApprox)


class ExplanationRow(_Row):
    """A row of explanations/."""

    description: Text | None = None
    explanationModelName: Text | None = None
    typeName: Text | None = None

    def add(self, feature: FeatureId, into: Gathered) -> None:
        """The feature's explanation."""
        by = " / ".join(name for name in (self.explanationModelName, self.typeName) if name)
        into.feature(feature)
        into.explanation(feature, self.description, explainer=by or None)


class ActivationRow(_Row, WindowRow):
    """A row of activations/."""

    def add(self, feature: FeatureId, into: Gathered) -> None:
        """A window in which the feature fires."""
        into.feature(feature)
        into.exemplar(feature, self.tokens, self.values)


_KINDS = {"features": FeatureRow, "explanations": ExplanationRow, "activations": ActivationRow}


def layer_of_source(source: str) -> int | None:
    """The layer in a source id such as `10-gemmascope-res-16k` or `resid_5`; None where it has none."""
    match = _LAYER.search(source)
    return int(match[1] or match[2]) if match else None


def read(source: Path, into: Gathered) -> None:
    """All batches below `source`, features first.

    Raises:
        DataError: no batches, or a row that is not in this format.
    """
    files_of(source, FOLDER)
    for kind, shape in _KINDS.items():
        for path in sorted(source.glob(f"**/{kind}/batch-*.jsonl*")):
            for number, cells in read_jsonl(path):
                where = f"{path} line {number}"
                row = shape.read(cells, where)
                model = into.model_of(where, row.modelId)
                sae_id = into.sae(row.layer, layer=layer_of_source(row.layer), model=model)
                row.add(FeatureId(sae_id, row.index), into)

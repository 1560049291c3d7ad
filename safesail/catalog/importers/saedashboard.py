"""SAEDashboard's batches for Neuronpedia: statistics, top tokens and windows of features, without explanations."""

from pathlib import Path
from typing import Any

from pydantic import Field

from safesail.catalog.gather import Gathered
from safesail.catalog.importers.rows import FileRow, Index, Text, WindowRow, files_of
from safesail.catalog.reading import read_json
from safesail.domain.ids import FeatureId

FOLDER = "batch-*.json"


class FeatureEntry(FileRow):
    """One feature."""

    feature_index: Index
    frac_nonzero: float | None = None
    activations: list[WindowRow] = Field(default_factory=list)


class Batch(FileRow):
    """One file."""

    model_id: Text
    layer: Index
    sae_set: Text
    features: list[FeatureEntry]


def fits(content: Any) -> bool:
    """Does a JSON document look like this format?"""
    return isinstance(content, dict) and set(content) >= set(Batch.model_fields)


def read(source: Path, into: Gathered) -> None:
    """One batch, or a folder of `batch-N.json`.

    Raises:
        DataError: not in this format, or about another model than the options say.
    """
    for path in files_of(source, FOLDER):
        batch = Batch.read(read_json(path), str(path))
        model = into.model_of(str(path), batch.model_id)
        sae_id = into.sae(f"{batch.layer}-{batch.sae_set}", layer=batch.layer, model=model)
        for entry in batch.features:
            _add(FeatureId(sae_id, entry.feature_index), entry, into)


def _add(feature: FeatureId, entry: FeatureEntry, into: Gathered) -> None:
    density = entry.frac_nonzero
    if density is None or not 0 <= density <= 1:
        into.fault("no density", str(feature))
        density = None
    windows = sorted(entry.activations, key=lambda window: -max(window.values, default=0.0))
    into.feature(feature, density=density, maximum=max(windows[0].values, default=0.0) if windows else None)
    for window in windows:
        into.exemplar(feature, window.tokens, window.values)

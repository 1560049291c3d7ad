"""Neuronpedia's export layout: `v1/<modelId>/<sourceId>/{features,explanations,activations}/batch-N.jsonl.gz`."""

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

from safesail.store.connection import Db
from safesail.store.exports import ExportRow, exported_windows

BATCH = 1024
N_WINDOWS = 20
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def write(db: Db, rows: list[ExportRow], out: Path) -> dict[str, int]:
    """Explanations with a text, their features, and their strongest windows. The layout has no room for scores."""
    left_out = Counter("masked" if row.masked else "failed" for row in rows if row.text is None)
    for sae_id in dict.fromkeys(row.sae_id for row in rows if row.text is not None):
        _write_sae(db, [row for row in rows if row.sae_id == sae_id and row.text is not None], out / "v1")
    return dict(left_out)


def _write_sae(db: Db, rows: list[ExportRow], out: Path) -> None:
    model, source = _names(rows[0])
    folder = out / model / source
    owner = {"modelId": model, "layer": source}
    features = {row.index: row for row in rows}
    _write(folder / "features", (
        {**owner, "index": str(i), "frac_nonzero": row.density, "maxActApprox": row.maximum}
        for i, row in sorted(features.items())))  # fmt: skip
    _write(folder / "explanations", (
        {"id": row.explanation_id, **owner, "index": str(row.index), "description": row.text, "typeName": None,
         "explanationModelName": row.explainer, "embedding": None}
        for row in rows))  # fmt: skip
    _write(folder / "activations", (
        {**owner, "index": str(index), "tokens": tokens, "values": values, "maxValue": max(values),
         "maxValueTokenIndex": values.index(max(values))}
        for index, tokens, values in exported_windows(db, rows[0].sae_id, N_WINDOWS) if index in features))  # fmt: skip


def _names(row: ExportRow) -> tuple[str, str]:
    """Model and source as folders may be called; a source begins with its layer, as Neuronpedia's do."""
    model = _UNSAFE.sub("_", row.model_id).strip("._") or "model"
    source = _UNSAFE.sub("_", row.sae_id.removeprefix(f"{row.model_id}/")).strip("._") or "sae"
    has_layer = row.layer is None or re.match(rf"^{row.layer}-", source)
    return model, source if has_layer else f"{row.layer}-{source}"


def _write(folder: Path, rows: Iterator[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in count():
        batch = list(islice(rows, BATCH))
        if not batch:
            return
        lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in batch)
        # Without a time in its header, the same rows give the same file.
        (folder / f"batch-{number}.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))

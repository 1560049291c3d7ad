"""Neuronpedia's export layout: `v1/<modelId>/<sourceId>/{features,explanations,activations}/batch-N.jsonl.gz`."""

import gzip
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safesail.catalog.exporters.rows import ExportRow
from safesail.store.connection import Db
from safesail.store.exports import exported_windows

BATCH = 1024
N_WINDOWS = 20
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def write(db: Db, rows: list[ExportRow], out: Path) -> dict[str, int]:
    """Explanations with a text, their features, and their strongest windows. The layout has no place for scores."""
    left_out: dict[str, int] = {}
    by_sae: dict[str, list[ExportRow]] = {}
    for row in rows:
        if row.text is None:
            why = "masked" if row.masked else "failed"
            left_out[why] = left_out.get(why, 0) + 1
        else:
            by_sae.setdefault(row.sae_id, []).append(row)
    for sae_id, mine in by_sae.items():
        model, source = _names(mine[0])
        folder = out / "v1" / model / source
        place = {"modelId": model, "layer": source}
        features = {row.index: row for row in mine}
        _write(folder / "features", (
            {**place, "index": str(i), "frac_nonzero": row.density, "maxActApprox": row.maximum}
            for i, row in sorted(features.items())))  # fmt: skip
        _write(folder / "explanations", (
            {"id": row.explanation_id, **place, "index": str(row.index), "description": row.text, "typeName": None,
             "explanationModelName": row.explainer, "embedding": None}
            for row in mine))  # fmt: skip
        _write(
            folder / "activations",
            (
                _activation(place, *window)
                for window in exported_windows(db, sae_id, N_WINDOWS)
                if window[0] in features
            ),
        )
    return left_out


def _names(row: ExportRow) -> tuple[str, str]:
    """Model and source as folders may be called; a source begins with its layer, as Neuronpedia's do."""
    model = _UNSAFE.sub("_", row.model_id).strip("._") or "model"
    source = _UNSAFE.sub("_", row.sae_id.removeprefix(f"{row.model_id}/")).strip("._") or "sae"
    leads = row.layer is None or re.match(rf"^{row.layer}-", source)
    return model, source if leads else f"{row.layer}-{source}"


def _activation(
    place: dict[str, str], feature: int, tokens: list[str], positions: list[int], found: list[float]
) -> dict[str, Any]:
    values = [0.0] * len(tokens)
    for position, value in zip(positions, found, strict=True):
        values[position] = float(value)
    top = max(values)
    return {**place, "index": str(feature), "tokens": tokens, "values": values, "maxValue": top,
            "maxValueTokenIndex": values.index(top)}  # fmt: skip


def _write(folder: Path, rows: Iterable[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    batch: list[str] = []
    number = 0
    for row in rows:
        batch.append(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        if len(batch) == BATCH:
            _flush(folder, number, batch)
            number, batch = number + 1, []
    if batch:
        _flush(folder, number, batch)


def _flush(folder: Path, number: int, lines: list[str]) -> None:
    # Without a time in its header, the same rows give the same file.
    (folder / f"batch-{number}.jsonl.gz").write_bytes(gzip.compress("".join(lines).encode(), mtime=0))

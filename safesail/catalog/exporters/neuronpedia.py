"""Neuronpedia's export layout, as its own importer reads it: `v1/<modelId>/<sourceId>/...`.

release, model, sourceset and source, a line each; then batches of features and explanations, cut in the text order
of the index, and of activations, cut in its numeric order. The importer takes a batch's columns from its first line, so
all lines of a file have the same keys; one that is unknown for a line is left out, for the column's default.
"""

import gzip
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from safesail.domain.ids import content_id
from safesail.store.connection import Db
from safesail.store.exports import ExportRow, exported_lens, exported_windows, model_layers

BATCH = 1024
N_WINDOWS = 20
CREATOR = "clkht01d40000jv08hvalcvly"
"""Neuronpedia's own placeholder for whoever imports; its tables want a creator for every row."""

_LENS = ("pos_str", "pos_values", "neg_str", "neg_values")
"""Columns of its table of features for the logit lens."""

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_EXPLAINER = re.compile(r"(?P<model>.+) / (?P<type>[\w-]+)")


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
    _write_about(db, rows[0], model, source, folder)
    features = {row.index: row for row in rows}
    lens = exported_lens(db, rows[0].sae_id)

    def feature(row: ExportRow) -> dict[str, Any]:
        return {
            **owner, "index": str(row.index), "creatorId": CREATOR, "sourceSetName": _set_of(source),
            "maxActApprox": row.maximum, "frac_nonzero": row.density,
            "hookName": row.hook if row.hook.startswith("blocks.") else None,
            **dict(zip(_LENS, lens.get(row.index, (None,) * len(_LENS)), strict=True)),
        }  # fmt: skip

    def explanation(row: ExportRow) -> dict[str, Any]:
        return {
            "id": row.explanation_id, **owner, "index": str(row.index), "authorId": CREATOR, "description": row.text,
            "embedding": None, **_explainer(row.explainer),
        }  # fmt: skip

    _write_batches(folder / "features", list(features.values()), feature)
    _write_batches(folder / "explanations", rows, explanation)
    windows = (
        (index, tokens, values) for index, tokens, values in exported_windows(db, rows[0].sae_id, N_WINDOWS)
        if index in features
    )  # fmt: skip
    _write_windows(folder / "activations", windows, owner)


def _write_about(db: Db, row: ExportRow, model: str, source: str, folder: Path) -> None:
    """The four rows to which the others refer; a model that the importer knows stays as it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    release = f"safesail-{model}-{source}"[:100]
    by = {"creatorId": CREATOR, "visibility": "PRIVATE"}
    about: dict[str, dict[str, Any]] = {
        "release": {"name": release, "description": f"{row.sae_id}, explained with Safe-SAIL", "urls": [],
                    "creatorName": "Safe-SAIL", **by},
        "model": {"id": model, "displayName": row.model_id, "displayNameShort": row.model_id, "owner": "",
                  "layers": model_layers(db, row.model_id) or 0, "neuronsPerLayer": 0, **by},
        "sourceset": {"modelId": model, "name": _set_of(source), "description": row.sae_id, "urls": [],
                      "creatorName": "Safe-SAIL", "releaseName": release, **by},
        "source": {"id": source, "modelId": model, "setName": _set_of(source),
                   "notes": f"SAE {row.sae_id} at {row.hook}", **by},
    }  # fmt: skip
    for name, cells in about.items():
        (folder / f"{name}.jsonl").write_text(json.dumps(cells, ensure_ascii=False) + "\n", encoding="utf-8")


def _set_of(source: str) -> str:
    """The set that a source belongs to: its name without the layer."""
    layer, _, rest = source.partition("-")
    return rest if rest and layer.isdigit() else source


def _explainer(name: str) -> dict[str, Any]:
    """Who explained: by Neuronpedia's own names where it came from there, else in a note.

    Its tables refuse a name of a model or type that they do not know.
    """
    known = _EXPLAINER.fullmatch(name)
    if known is not None:
        return {"explanationModelName": known["model"], "typeName": known["type"], "notes": None}
    return {"explanationModelName": None, "typeName": None, "notes": f"explainer: {name}"}


def _names(row: ExportRow) -> tuple[str, str]:
    """Model and source as folders may be called; a source begins with its layer, as Neuronpedia's do."""
    model = _UNSAFE.sub("_", row.model_id).strip("._") or "model"
    source = _UNSAFE.sub("_", row.sae_id.removeprefix(f"{row.model_id}/")).strip("._") or "sae"
    has_layer = row.layer is None or re.match(rf"^{row.layer}-", source)
    return model, source if has_layer else f"{row.layer}-{source}"


def _write_batches(folder: Path, rows: list[ExportRow], cells: Callable[[ExportRow], dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    by_text = sorted(rows, key=lambda row: str(row.index))
    for number, at in enumerate(range(0, len(by_text), BATCH)):
        _write(folder / f"batch-{number}.jsonl.gz", [cells(row) for row in by_text[at : at + BATCH]])


def _write_windows(
    folder: Path, windows: Iterator[tuple[int, list[str], list[float]]], owner: dict[str, str]
) -> None:
    """Windows come in numeric order of their features; a batch holds those of 1,024 indices."""
    folder.mkdir(parents=True, exist_ok=True)
    name = "/".join(owner.values())
    for number, (_, batch) in enumerate(groupby(windows, key=lambda window: window[0] // BATCH)):
        _write(folder / f"batch-{number}.jsonl.gz", [
            {"id": content_id(f"{name}/{index}/{at}"), **owner, "index": str(index), "creatorId": CREATOR,
             "tokens": tokens, "values": values, "maxValue": max(values), "minValue": min(values),
             "maxValueTokenIndex": values.index(max(values))}
            for at, (index, tokens, values) in enumerate(batch)])  # fmt: skip


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    optional = {"embedding", "explanationModelName", "typeName", "notes", "hookName", "maxActApprox"}
    unknown = {key for row in rows for key, cell in row.items() if cell is None} - optional
    kept = [{key: cell for key, cell in row.items() if key not in unknown} for row in rows]
    lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in kept)
    # Without a time in its header, the same rows give the same file.
    path.write_bytes(gzip.compress(lines.encode(), mtime=0))

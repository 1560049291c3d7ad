"""Safe-SAIL's database format; what was imported from it is written back byte for byte."""

import json
from pathlib import Path

from safesail.catalog.exporters.rows import ExportRow
from safesail.catalog.gather import EMPTY, MASK
from safesail.errors import ConfigError
from safesail.store.connection import Db


def write(_db: Db, rows: list[ExportRow], out: Path) -> dict[str, int]:
    """One object, `"{layer}_{index}" -> {explanation, correlation_score, tag_list}`.

    Raises:
        ConfigError: two SAEs of one layer, or an SAE without a layer: the format has no name for them.
    """
    entries: dict[str, dict[str, object]] = {}
    left_out: dict[str, int] = {}
    saes: dict[int, str] = {}
    for row in rows:
        if row.layer is None:
            raise ConfigError(
                f"SAE {row.sae_id!r} has no layer, by which this format names features; use jsonl"
            )
        if saes.setdefault(row.layer, row.sae_id) != row.sae_id:
            raise ConfigError(
                f"{saes[row.layer]!r} and {row.sae_id!r} are both of layer {row.layer}, by which this format names"
                " features; choose one catalog with --origin, or use jsonl"
            )
        key = f"{row.layer}_{row.index}"
        why = "failed" if row.error not in (None, EMPTY) else "further explanation of a feature"
        if key in entries or row.error not in (None, EMPTY):
            left_out[why] = left_out.get(why, 0) + 1
            continue
        entries[key] = {"explanation": _text(row), "correlation_score": row.score, "tag_list": list(row.tags)}
    out.write_text(json.dumps(entries, allow_nan=False), encoding="utf-8")
    return left_out


def _text(row: ExportRow) -> str | None:
    if row.masked:
        return MASK
    if row.error == EMPTY and row.message != "null":
        return ""
    return row.text

"""Safe-SAIL's database format; what was imported from it is written back byte for byte."""

import json
from collections import Counter
from pathlib import Path

from safesail.catalog.gather import EMPTY, MASK
from safesail.errors import ConfigError
from safesail.store.connection import Db
from safesail.store.exports import ExportRow


def write(_db: Db, rows: list[ExportRow], out: Path) -> dict[str, int]:
    """One object, `"{layer}_{index}" -> {explanation, correlation_score, tag_list}`.

    Raises:
        ConfigError: two SAEs of one layer, or an SAE without a layer: the format has no name for them.
    """
    entries: dict[str, dict[str, object]] = {}
    left_out: Counter[str] = Counter()
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
        if row.error not in (None, EMPTY):
            left_out["failed"] += 1
        elif key in entries:
            left_out["further explanation of a feature"] += 1
        else:
            text = "" if row.error == EMPTY and row.message != "null" else row.text
            entries[key] = {
                "explanation": MASK if row.masked else text,
                "correlation_score": row.score,
                "tag_list": list(row.tags),
            }
    out.write_text(json.dumps(entries, allow_nan=False), encoding="utf-8")
    return dict(left_out)

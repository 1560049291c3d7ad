"""CSV and JSONL: one row per explanation, failed and masked ones too."""

import csv
import json
from dataclasses import asdict, fields
from pathlib import Path

from safesail.domain.text import spreadsheet_text
from safesail.store.connection import Db
from safesail.store.exports import ExportRow


def write_csv(_db: Db, rows: list[ExportRow], out: Path) -> dict[str, int]:
    """As CSV; unknown values are empty cells, semicolons stand between tags, a `'` before what looks like a formula."""
    with out.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(ExportRow)], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            cells = {**asdict(row), "tags": ";".join(row.tags)}
            writer.writerow(
                {name: spreadsheet_text(c) if isinstance(c, str) else c for name, c in cells.items()}
            )
    return {}


def write_jsonl(_db: Db, rows: list[ExportRow], out: Path) -> dict[str, int]:
    """As one JSON object per line."""
    with out.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(asdict(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    return {}

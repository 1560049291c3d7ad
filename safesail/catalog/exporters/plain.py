"""CSV and JSONL: a row an explanation, failed and masked ones too."""

import csv
import json
from dataclasses import asdict
from pathlib import Path

from safesail.catalog.exporters.rows import ExportRow
from safesail.store.connection import Db


def write_csv(_db: Db, rows: list[ExportRow], out: Path) -> dict[str, int]:
    """As CSV; unknown values are empty cells, tags stand between semicolons."""
    with out.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows({**asdict(row), "tags": ";".join(row.tags)} for row in rows)
    return {}


def write_jsonl(_db: Db, rows: list[ExportRow], out: Path) -> dict[str, int]:
    """As one JSON object a line."""
    with out.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(asdict(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    return {}

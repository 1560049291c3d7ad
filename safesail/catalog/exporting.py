"""Handing a catalog to other tools, in their formats."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from safesail.catalog.exporters import neuronpedia, plain, safe_sail
from safesail.catalog.exporters.rows import ExportRow
from safesail.catalog.source import open_source
from safesail.errors import ConfigError, NotFoundError
from safesail.store.connection import Db
from safesail.store.exports import export_rows

ExportFormat = Literal["safe-sail", "neuronpedia", "csv", "jsonl"]
EXPORT_FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)


@dataclass(frozen=True)
class ExportReport:
    """What was written."""

    out: Path
    explanations: int
    left_out: dict[str, int]
    """Explanations that the format cannot hold, by reason."""


_WRITERS: dict[ExportFormat, Callable[[Db, list[ExportRow], Path], dict[str, int]]] = {
    "safe-sail": safe_sail.write,
    "neuronpedia": neuronpedia.write,
    "csv": plain.write_csv,
    "jsonl": plain.write_jsonl,
}


def export_catalog(
    store: Path, out: Path, form: ExportFormat, *, origin: str | None = None, lang: str = "en"
) -> ExportReport:
    """Write the explanations of a store or release in another tool's format.

    Args:
        store: A store, or a release.
        out: A file; for Neuronpedia's layout a folder.
        form: The format.
        origin: Only what came from the catalog of this name.
        lang: Only explanations in this language.

    Raises:
        NotFoundError: no explanation from there.
        ConfigError: `out` exists, or the format cannot hold this catalog.
    """
    if out.exists():
        raise ConfigError(f"{out} exists already; choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.parent / f".{out.name}.{os.getpid()}.partial"
    try:
        with open_source(store) as db:
            found = [row for row in map(ExportRow.of, export_rows(db, origin)) if row.lang == lang]
            if not found:
                raise NotFoundError(
                    f"{store} holds no explanation{f' from {origin!r}' if origin else ''} in {lang!r}"
                )
            left_out = _WRITERS[form](db, found, partial)
        partial.replace(out)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)
    return ExportReport(out, len(found) - sum(left_out.values()), left_out)

"""Handing a catalog to other tools, in their formats."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from safesail.catalog.exporters import neuronpedia, plain, safe_sail
from safesail.catalog.source import open_source
from safesail.errors import ConfigError, NotFoundError
from safesail.files import whole_file, whole_folder
from safesail.store.connection import Db
from safesail.store.exports import ExportRow, export_rows

ExportFormat = Literal["safe-sail", "neuronpedia", "csv", "jsonl"]
EXPORT_FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)

_WRITERS: dict[ExportFormat, Callable[[Db, list[ExportRow], Path], dict[str, int]]] = {
    "safe-sail": safe_sail.write,
    "neuronpedia": neuronpedia.write,
    "csv": plain.write_csv,
    "jsonl": plain.write_jsonl,
}


@dataclass(frozen=True)
class ExportReport:
    """What was written."""

    out: Path
    explanations: int
    left_out: dict[str, int]
    """Explanations that the format cannot hold, by reason."""


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
        DataError: `out` cannot be written.
    """
    if out.exists():
        raise ConfigError(f"{out} exists already; choose another name")
    if form == "neuronpedia" and out.suffix in (".json", ".jsonl", ".gz"):
        raise ConfigError(
            f"the format {form} is a folder of files, and {out} is named like one file; name a folder"
        )
    with open_source(store) as db:
        rows = export_rows(db, origin)
        chosen = [row for row in rows if row.lang == lang]
        if not chosen:
            langs = sorted({row.lang for row in rows})
            there_are = f"; there are some in {', '.join(langs)}: name one with --lang" if langs else ""
            raise NotFoundError(
                f"{store} holds no explanation{f' from {origin!r}' if origin else ''} in {lang!r}{there_are}"
            )
        with (whole_folder if form == "neuronpedia" else whole_file)(out) as partial:
            left_out = _WRITERS[form](db, chosen, partial)
    return ExportReport(out, len(chosen) - sum(left_out.values()), left_out)

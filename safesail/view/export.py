"""The same pages as files: they open by a double click and on any web server, and load nothing from elsewhere."""

import shutil
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from safesail.catalog.config import ReleaseOptions
from safesail.catalog.release import build_release
from safesail.catalog.source import is_release
from safesail.domain.ids import FeatureId
from safesail.errors import ConfigError
from safesail.files import whole_folder
from safesail.store.shelf import paged_features, shelf_rows
from safesail.view.config import ViewOptions
from safesail.view.desk import Desk, open_desk
from safesail.view.feature import feature_page
from safesail.view.landscape import CHUNK, points_script, script_json, texts_script
from safesail.view.links import FileLinks, feature_file, sae_folder
from safesail.view.listing import ListQuery, listed_feature
from safesail.view.pages import (
    costs_html,
    feature_as_html,
    index_html,
    make_map,
    map_html,
    map_input,
    saes_html,
)
from safesail.view.render import STATIC

_BATCH = 2_000
_MARK = ".safesail-view"
"""Stands in an export's folder: a newer one may take its place."""


@dataclass(frozen=True)
class ExportReport:
    """What was written."""

    pages: int
    bytes: int


def export(
    path: Path, out: Path, options: ViewOptions, *, redact: Sequence[str] = (), quiet: bool = False
) -> ExportReport:
    """Write the pages of a store or a release to the folder `out`, whole or not at all.

    Features get a page that are explained, masked, scored or tagged, as in a release.

    Args:
        path: A store, or a release's folder or zip; of a redacted release no page holds what it masks.
        out: A new or empty folder, or an earlier export, which is replaced.
        options: How the catalog is opened.
        redact: Domains whose explanations and texts are masked: the store is exported as its release would be.
        quiet: No progress on stderr.

    Raises:
        ConfigError: `out` holds something else, or a release is to be redacted.
        DataError: the catalog cannot be read, or `out` not written.
    """
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (out / _MARK).is_file())):
        raise ConfigError(f"{out} holds something else than an export; name a new folder")
    with (
        _source(path, redact, quiet=quiet) as source,
        open_desk(source, by="words", memory=options.memory, quiet=quiet) as desk,
        whole_folder(out, replace=True) as folder,
    ):
        files = _Files(folder)
        features = paged_features(desk.db)
        links = FileLinks(known=frozenset((sae_id, index) for _, sae_id, index in features))
        _write_features(files, desk, links, features, quiet=quiet)
        _write_list(files, desk, links, features)
        _write_map(files, desk, links)
        files.write("saes.html", saes_html(desk, links))
        files.write("costs.html", costs_html(desk, links))
        for name in sorted(STATIC.iterdir()):
            files.write(f"static/{name.name}", name.read_text(encoding="utf-8"))
        files.write(_MARK, "")
        return ExportReport(files.pages, files.bytes)


class _Files:
    """A folder that is written to, with what that amounts to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.pages = 0
        self.bytes = 0

    def write(self, name: str, text: str) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        encoded = text.encode("utf-8", "backslashreplace")
        path.write_bytes(encoded)
        self.pages += name.endswith(".html")
        self.bytes += len(encoded)


@contextmanager
def _source(path: Path, redact: Sequence[str], *, quiet: bool) -> Generator[Path]:
    """What is exported: the catalog itself, or a redacted release of it that is gone afterwards."""
    if not redact:
        yield path
        return
    if is_release(path):
        raise ConfigError("a release is redacted when it is made (`safesail catalog release --redact`)")
    folder = Path(tempfile.mkdtemp(prefix="safesail-export-"))
    try:
        options = ReleaseOptions.read({"name": path.stem, "redact": tuple(redact)}, "command line")
        build_release(path, folder / path.stem, options, quiet=quiet)
        yield folder / path.stem
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_features(
    files: _Files, desk: Desk, links: FileLinks, features: Sequence[tuple[int, str, int]], *, quiet: bool
) -> None:
    deeper = links.below(2)
    for at, (_, sae_id, index) in enumerate(tqdm(features, desc="pages", unit="page", disable=quiet)):
        feature = FeatureId(sae_id, index)
        shown = feature_page(desk, feature, near=desk.index.n_texts <= _BATCH, simulated=True)
        before = features[at - 1] if at else None
        after = features[at + 1] if at + 1 < len(features) else None
        html = feature_as_html(
            desk,
            deeper,
            shown,
            before[2] if before and before[1] == sae_id else None,
            after[2] if after and after[1] == sae_id else None,
        )
        files.write(feature_file(feature), html)


def _write_list(
    files: _Files, desk: Desk, links: FileLinks, features: Sequence[tuple[int, str, int]]
) -> None:
    html, _ = index_html(desk, links, ListQuery())
    files.write("index.html", html)
    number = {sae.sae_id: at for at, sae in enumerate(desk.saes)}
    rows: list[list[Any]] = []
    for first in range(0, len(features), _BATCH):
        part = features[first : first + _BATCH]
        for (n, _, _), row in zip(part, shelf_rows(desk.db, [n for n, _, _ in part]), strict=True):
            f = listed_feature(row)
            rows.append([
                number[f.sae_id], f.index, f.layer, f.explanation, list(f.tags), f.score, f.low, f.high, f.chance,
                f.lookup, int(f.beyond_lookup == "yes"), f.density, desk.masks[n], list(f.top_tokens[:6]),
                int(f.effect == "yes"),
            ])  # fmt: skip
    catalog = {
        "saes": [sae.sae_id for sae in desk.saes],
        "folders": [f"features/{sae_folder(sae.sae_id)}" for sae in desk.saes],
        "domains": desk.domains,
        "scored": desk.totals.scored,
        "rows": rows,
    }
    files.write("data/catalog.js", f"safesailCatalog({script_json(catalog)});\n")


def _write_map(files: _Files, desk: Desk, links: FileLinks) -> None:
    given = map_input(desk)
    landscape = None if given is None else make_map(given)
    files.write("map.html", map_html(desk, links, landscape))
    if landscape is None:
        return
    files.write("data/points.js", points_script(landscape, [sae.sae_id for sae in desk.saes], desk.domains))
    for chunk in range(-(-landscape.n // CHUNK)):
        files.write(f"data/texts-{chunk}.js", texts_script(landscape, chunk))

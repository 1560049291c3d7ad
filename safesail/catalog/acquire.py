"""From the name of a public catalog to rows in a store: list, mirror, import, join; and what could not be had."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safesail.catalog.bucket import list_bucket
from safesail.catalog.config import ImportOptions
from safesail.catalog.download import download
from safesail.catalog.format import read_manifest
from safesail.catalog.gather import ImportReport
from safesail.catalog.identity import Identity, join_proven
from safesail.catalog.importers.neuronpedia import BATCH_OF
from safesail.catalog.importing import Delivery, import_catalog
from safesail.catalog.mirror import Lost, Mirror, Mirrored, Offered, open_mirror
from safesail.catalog.sources import NEURONPEDIA, KnownCatalog, find_source, neuronpedia_saes
from safesail.catalog.transfer import (
    PATIENT,
    InterruptedDownloadError,
    Patience,
    Remote,
    check_address,
    http_client,
    run_to_end,
)
from safesail.errors import ConfigError, NotFoundError, meant
from safesail.resources import cache_dir
from safesail.store.connection import open_reader, open_writer
from safesail.store.identities import explained_range
from safesail.store.imports import imported_digest

_ABOUT = re.compile(r"(?:model|source|sourceset|release)\.jsonl(?:\.gz)?")


@dataclass(frozen=True)
class Order:
    """What to get, and where to."""

    source: str
    """`neuronpedia:MODEL/SOURCE`, the name of another known catalog, `hf:org/name`, an address or a path."""

    into: Path | None = None
    """The store to import it into."""

    out: Path | None = None
    """Where the files are kept; None: in the user's cache."""

    kinds: tuple[str, ...] = ()
    """Of Neuronpedia, besides explanations: `features`, `activations`."""

    address: str | None = None
    """Of a mirror, in the place of the public address."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings of `ImportOptions` that the user gives."""


@dataclass(frozen=True)
class Gaps:
    """Which features of an SAE a catalog explains."""

    sae_id: str
    explained: int
    width: int | None
    """None: unknown; then gaps are counted up to the last explained feature."""

    missing: int
    first_missing: tuple[int, ...]


@dataclass(frozen=True)
class Acquired:
    """What came, what was imported, and what could not be had."""

    folder: Path
    """Where the files are."""

    n_fetched: int = 0
    n_bytes: int = 0
    """That came now; what is here already is not fetched again."""

    lost: tuple[Lost, ...] = ()
    report: ImportReport | None = None
    """None: nothing was imported, or nothing had changed since the last time."""

    unchanged: bool = False
    gaps: tuple[Gaps, ...] = ()
    identities: tuple[Identity, ...] = ()

    @property
    def complete(self) -> bool:
        """Did every file come, and was every one taken?"""
        return not self.lost and not (self.report is not None and self.report.refused)


def acquire(order: Order, *, patience: Patience = PATIENT, quiet: bool = True) -> Acquired:
    """Get a catalog, and import it where the order says so. A second time fetches only what has changed.

    Raises:
        ConfigError: no such source, or settings that do not fit it.
        NotFoundError: the server does not have it.
        InterruptedDownloadError: the server is gone; what has come is kept, and the next attempt goes on.
        DataError: nothing of what came can be used, or it does not fit on the disk.
    """
    named = find_source(order.source)
    if named is None:
        return _acquire_release(order, patience, quiet=quiet)
    known, part = named
    if unknown := sorted(set(order.kinds) - {"features", "activations"}):
        raise ConfigError(f"--with takes features and activations, not {unknown[0]!r}")
    address = check_address(order.address or known.address)
    remote = Remote(address if address.endswith("/") else f"{address}/", patience)
    folder = order.out or cache_dir() / "catalogs" / _slug(order.source)
    with open_mirror(folder) as mirror:
        mirrored = run_to_end(_mirror(known, part, order, remote, mirror, quiet=quiet))
    came = Acquired(folder, mirrored.n_fetched, mirrored.n_bytes, tuple(mirrored.lost))
    return came if order.into is None else _import(known, part, order, remote, mirrored, came)


def _slug(source: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", source)


async def _mirror(
    known: KnownCatalog, part: str, order: Order, remote: Remote, mirror: Mirror, *, quiet: bool
) -> Mirrored:
    async with http_client(remote.patience, redirects=False) as client:
        if known.layout == NEURONPEDIA:
            offered = await list_bucket(client, remote, f"v1/{part}/")
            kinds = {"explanations", *order.kinds, *mirror.folders()}
            wanted = [file for file in offered if _is_wanted(file.path, kinds)]
            if not any(file.path.startswith("explanations") for file in wanted):
                hint = meant(part, neuronpedia_saes())
                raise NotFoundError(f"{remote.address} has no explanations of {part}; {hint}")
        else:
            wanted = [Offered(path, remote.file(path)) for path in known.files]
        mirrored = await mirror.fetch(client, wanted, quiet=quiet)
    what = "explanations" if known.layout == NEURONPEDIA else ""
    if mirrored.lost and not any(path.startswith(what) for path in mirrored.kept):
        lost = mirrored.lost[0]
        raise InterruptedDownloadError(f"nothing came of {order.source}: {lost.path}: {lost.reason}")
    return mirrored


def _is_wanted(path: str, kinds: set[str]) -> bool:
    batch = BATCH_OF.fullmatch(path)
    if batch is None:
        return _ABOUT.fullmatch(path) is not None
    return batch["kind"].partition("-")[0] in kinds


def _import(
    known: KnownCatalog, part: str, order: Order, remote: Remote, mirrored: Mirrored, came: Acquired
) -> Acquired:
    assert order.into is not None
    options = _options(known, part, order)
    digest = hashlib.sha256(f"{mirrored.digest} {options.model_dump_json()}".encode()).hexdigest()
    report = None
    if not order.into.exists() or _imported(order.into, options.name) != digest:
        provenance = {
            "source": order.source, "address": f"{remote.address}{f'v1/{part}/' if part else ''}",
            "licence": known.licence, "page": known.page, "files": str(len(mirrored.kept)),
            "bytes": str(sum(file.bytes for file in mirrored.kept.values())),
        }  # fmt: skip
        parts = tuple(came.folder / path for path in known.roots or known.files) or (came.folder,)
        form = known.format or "neuronpedia"
        report = import_catalog(
            order.into, came.folder, options, form=form, delivery=Delivery(parts, digest, provenance)
        )
    identities = join_proven(order.into)
    return Acquired(
        came.folder, came.n_fetched, came.n_bytes, came.lost, report, report is None,
        _gaps(order.into, options.name), tuple(identities),
    )  # fmt: skip


def _options(known: KnownCatalog, part: str, order: Order) -> ImportOptions:
    given: dict[str, Any] = {"name": order.source.replace(":", "/"), **known.options}
    if part:
        sae = next(iter(neuronpedia_saes().get(part, ())), None)
        given |= {"source": part, "d_sae": sae and sae.width, "hook": sae and sae.hook}
    given |= {name: value for name, value in order.options.items() if value is not None}
    return ImportOptions.read(given, order.source)


def _imported(store: Path, name: str) -> str | None:
    with open_writer(store) as db:  # a kill may have left it without its tables, which this one makes
        return imported_digest(db, name)


def _gaps(store: Path, origin: str) -> tuple[Gaps, ...]:
    with open_reader(store) as db:
        return tuple(
            Gaps(sae_id, n, width, missing, first)
            for sae_id, n, width, missing, first in explained_range(db, origin)
        )


def _acquire_release(order: Order, patience: Patience, *, quiet: bool) -> Acquired:
    if order.kinds or order.address:
        raise ConfigError("--with and --address are for catalogs that `safesail catalog sources` lists")
    folder = order.out or cache_dir() / "catalogs" / _slug(order.source)
    download(order.source, folder, quiet=quiet, patience=patience, update=order.out is None)
    if order.into is None:
        return Acquired(folder)
    manifest = read_manifest(folder)
    options = ImportOptions.read(
        {"name": manifest.name, **{k: v for k, v in order.options.items() if v is not None}}, "manifest"
    )
    provenance = {"source": order.source, "licence": manifest.licence, "version": manifest.version}
    report = import_catalog(
        order.into, folder, options, form="release", delivery=Delivery((folder,), "", provenance)
    )
    return Acquired(folder, report=report, identities=(*report.identities, *join_proven(order.into)))

"""Getting a release from a folder, a zip, an address or the Hugging Face hub; seen by nobody before it is verified."""

import asyncio
import os
import re
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
from tqdm import tqdm

from safesail.catalog.archive import FREE_BYTES, unpack
from safesail.catalog.format import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    FileEntry,
    Manifest,
    file_digest,
    parse_manifest,
    read_manifest,
    release_digest,
)
from safesail.catalog.transfer import (
    PATIENT,
    Held,
    InterruptedDownloadError,
    NothingLeftError,
    Patience,
    Remote,
    check_address,
    http_client,
    receive,
    receive_one,
    run_to_end,
)
from safesail.catalog.verify import faults_of, verify_folder
from safesail.errors import ChecksumError, ConfigError, DataError, NotFoundError, SafeSailError
from safesail.files import remove, restore, whole_folder
from safesail.version import __version__

MAX_ZIP_BYTES = 256 * 2**30
ZIP = "release.zip"
PARALLEL = 4
"""Files of a release that come at the same time."""

_HUB = re.compile(r"^hf:(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?$")


def download(
    source: str, out: Path, *, quiet: bool = False, patience: Patience = PATIENT, update: bool = False
) -> Path:
    """Get a release, verify all of it, and put it at `out`, a folder. What is there already is not fetched again.

    Args:
        source: A folder, a zip, an https address of a zip or of a release's folder, or `hf:org/name[@revision]`, for
            which the hub's own token is used where there is one.
        out: Where the release's folder will be. The same release there is replaced.
        quiet: No progress on stderr.
        patience: How slow the server may be.
        update: Another release may be at `out`, such as an earlier version, and is replaced.

    Raises:
        ConfigError: no such kind of source, or something else is at `out`.
        NotFoundError: nothing at `source`.
        InterruptedDownloadError: the connection broke, or is too slow.
        DataError: what came is refused: damaged, of another format, or not a release. Nothing is left of it.
    """
    local = "://" not in source and not source.startswith("hf:")
    remote = None if local else _remote(source, patience)
    if local and not Path(source).exists():
        raise NotFoundError(f"nothing at {source}")
    restore(out)
    replace = out.exists()
    resume = None if remote is None else InterruptedDownloadError
    with whole_folder(out, replace=replace, resume=resume) as work, faults_of(work, source):
        if remote is None:
            _copy(Path(source), work)
        elif remote.address.endswith(".zip"):
            _fetch_zip(remote, work, quiet=quiet)
        else:
            _fetch_files(remote, work, out, quiet=quiet)
        manifest = verify_folder(work)
        if replace and not update and not _is_same(out, manifest):
            raise ConfigError(f"something else is at {out}; choose another --out")
    return out


def _copy(source: Path, work: Path) -> None:
    """The files that the manifest names; never what a link points to."""
    if not source.is_dir():
        unpack(source, work)
        return
    for name in (MANIFEST, *read_manifest(source).files):
        path = source / name
        if path.is_symlink():
            raise DataError(f"{path} is a link; a release has plain files only")
        if not path.is_file():
            raise ChecksumError(f"{path} is missing; the release is not whole")
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, work / name)


def _is_same(out: Path, manifest: Manifest) -> bool:
    return (out / MANIFEST).is_file() and release_digest(read_manifest(out)) == release_digest(manifest)


def _remote(source: str, patience: Patience) -> Remote:
    """The address behind a source; only https leaves this machine.

    Raises:
        ConfigError: another kind of source.
    """
    if not source.startswith("hf:"):
        address = check_address(source)
        whole = urlsplit(address).path.endswith(("/", ".zip", MANIFEST))
        return Remote(address if whole else f"{address}/", patience, redirects=True)
    named = _HUB.match(source)
    if not named or ".." in source:
        raise ConfigError(f"{source!r} is not hf:organisation/name, or hf:organisation/name@revision")
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    address = hf_hub_url(
        named["repo"], MANIFEST, repo_type="dataset", revision=named["revision"],
        endpoint=os.environ.get("HF_ENDPOINT"),
    )  # fmt: skip
    headers = build_hf_headers(library_name="safesail", library_version=__version__)
    return Remote(check_address(address), patience, headers, redirects=True)


def _fetch_files(remote: Remote, work: Path, out: Path, *, quiet: bool) -> None:
    content = bytearray()
    run_to_end(receive_one(remote.file(MANIFEST), content.extend, MAX_MANIFEST_BYTES))
    manifest = parse_manifest(bytes(content), f"{remote.address}: {MANIFEST}")
    total = sum(entry.bytes for entry in manifest.files.values())
    _clear(work, manifest.files)
    _reuse(out, work, manifest)
    here = sum(file.stat().st_size for file in work.rglob("*") if file.is_file())
    if total - here + FREE_BYTES > shutil.disk_usage(work).free:
        raise DataError(f"{remote.address} needs {total:,} bytes, which do not fit on the disk")
    with tqdm(total=total, initial=here, desc="download", unit="B", unit_scale=True, disable=quiet) as bar:
        run_to_end(_fetch_all(remote, work, manifest, bar.update))
    (work / MANIFEST).write_bytes(manifest.as_bytes())


def _reuse(out: Path, work: Path, manifest: Manifest) -> None:
    """What an earlier download left at `out`, and is as the manifest says, is not fetched again."""
    for name, entry in manifest.files.items():
        old, new = out / name, work / name
        plain = old.is_file() and not old.is_symlink() and not old.parent.is_symlink()
        if plain and not new.exists() and old.stat().st_size == entry.bytes:
            new.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(old, new)


async def _fetch_all(
    remote: Remote, work: Path, manifest: Manifest, advance: Callable[[int], object]
) -> None:
    """All files, some at a time; the first fault ends it, and what has come is kept."""
    gate = asyncio.Semaphore(PARALLEL)
    async with http_client(remote.patience, redirects=remote.redirects) as client:

        async def one(name: str, entry: FileEntry) -> None:
            async with gate:
                await _fetch_file(client, remote.file(name), work / name, entry, advance)

        try:
            async with asyncio.TaskGroup() as group:
                for name, entry in manifest.files.items():
                    group.create_task(one(name, entry))
        except* SafeSailError as group:
            raise group.exceptions[0] from group


async def _fetch_file(
    client: httpx2.AsyncClient, remote: Remote, path: Path, entry: FileEntry, advance: Callable[[int], object]
) -> None:
    """One file, from where an earlier attempt stopped; from the start again where that does not fit together."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in ("resumed", "whole"):
        if attempt == "whole":
            path.unlink(missing_ok=True)
        await _append(client, remote, path, entry.bytes, advance)
        if path.stat().st_size == entry.bytes and file_digest(path) == entry.sha256:
            return
    raise ChecksumError(
        f"{remote.address} differs from its SHA-256 in the manifest; the release is damaged at its source"
    )


def _fetch_zip(remote: Remote, work: Path, *, quiet: bool) -> None:
    _clear(work, (ZIP,))
    limit = min(MAX_ZIP_BYTES, shutil.disk_usage(work).free - FREE_BYTES)
    with tqdm(desc="download", unit="B", unit_scale=True, disable=quiet) as bar:

        async def fetch() -> None:
            async with http_client(remote.patience, redirects=remote.redirects) as client:
                await _append(client, remote, work / ZIP, limit, bar.update)

        run_to_end(fetch())
    unpack(work / ZIP, work)
    (work / ZIP).unlink()


def _clear(work: Path, names: Collection[str]) -> None:
    """Remove what an earlier attempt left that is none of `names`."""
    for entry in list(work.rglob("*")):
        if not entry.is_dir() and entry.relative_to(work).as_posix() not in names:
            remove(entry)


async def _append(
    client: httpx2.AsyncClient, remote: Remote, path: Path, limit: int, advance: Callable[[int], object]
) -> None:
    """Go on with `path` up to `limit` bytes.

    Raises:
        InterruptedDownloadError: the connection broke.
        DataError: the file is larger than `limit`.
    """
    start = path.stat().st_size if path.is_file() else 0
    if start == limit > 0:
        return
    with path.open("ab") as stream:

        def write(block: bytes) -> None:
            stream.write(block)
            advance(len(block))

        def restart() -> None:
            stream.truncate(0)

        try:
            await receive(client, remote, write, limit, held=Held(start), restart=restart)
        except NothingLeftError:
            restart()
            await receive(client, remote, write, limit)

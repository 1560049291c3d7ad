"""Getting a release from a folder, a zip, an address or the Hugging Face hub; seen by nobody before it is verified."""

import asyncio
import os
import re
import shutil
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

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
from safesail.catalog.verify import faults_of, verify_folder
from safesail.errors import ChecksumError, ConfigError, DataError, NotFoundError
from safesail.files import remove, restore, whole_folder
from safesail.version import __version__

MAX_ZIP_BYTES = 256 * 2**30
MAX_REDIRECTS = 5
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
ZIP = "release.zip"

_HUB = re.compile(r"^hf:(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?$")


class InterruptedDownloadError(DataError):
    """The connection broke; what has come is kept, and the next attempt goes on from there."""


class _NothingLeftError(InterruptedDownloadError):
    """The server has no byte from where an earlier attempt stopped: what is here is another file, or all of it."""


@dataclass(frozen=True)
class Patience:
    """How slow a server may be."""

    idle: float = 30.0
    """Seconds without a byte."""

    start: float = 60.0
    """Seconds per file, besides those that its bytes may take."""

    bytes_per_second: float = 20_000.0
    """Of what has come so far."""


@dataclass(frozen=True)
class _Remote:
    """A release on a server."""

    address: str
    """Of the zip, or of the folder with a slash at the end."""

    patience: Patience
    headers: dict[str, str] = field(default_factory=dict)

    def file(self, name: str) -> "_Remote":
        return _Remote(urljoin(self.address, name), self.patience, self.headers)


def download(source: str, out: Path, *, quiet: bool = False, patience: Patience = Patience()) -> Path:
    """Get a release, verify all of it, and put it at `out`, a folder.

    Args:
        source: A folder, a zip, an https address of a zip or of a release's folder, or `hf:org/name[@revision]`, for
            which the hub's own token is used where there is one.
        out: Where the release's folder will be. The same release there is replaced.
        quiet: No progress on stderr.
        patience: How slow the server may be.

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
            _fetch_files(remote, work, quiet=quiet)
        manifest = verify_folder(work)
        if replace and not _is_same(out, manifest):
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
        shutil.copyfile(path, work / name)


def _is_same(out: Path, manifest: Manifest) -> bool:
    return (out / MANIFEST).is_file() and release_digest(read_manifest(out)) == release_digest(manifest)


def _remote(source: str, patience: Patience) -> _Remote:
    """The address behind a source; only https leaves this machine.

    Raises:
        ConfigError: another kind of source.
    """
    if not source.startswith("hf:"):
        address = _check_address(source)
        whole = urlsplit(address).path.endswith(("/", ".zip", MANIFEST))
        return _Remote(address if whole else f"{address}/", patience)
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
    return _Remote(_check_address(address), patience, headers)


def _check_address(address: str) -> str:
    parts = urlsplit(address)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK):
        return address
    raise ConfigError(
        f"{address} is not https; a release is fetched over https, from a path, or from hf:org/name"
    )


def _fetch_files(remote: _Remote, work: Path, *, quiet: bool) -> None:
    content = bytearray()
    _run(_receive(remote.file(MANIFEST), content.extend, MAX_MANIFEST_BYTES))
    manifest = parse_manifest(bytes(content), f"{remote.address}: {MANIFEST}")
    total = sum(entry.bytes for entry in manifest.files.values())
    _clear(work, manifest.files)
    if total - sum(f.stat().st_size for f in work.iterdir()) + FREE_BYTES > shutil.disk_usage(work).free:
        raise DataError(f"{remote.address} needs {total:,} bytes, which do not fit on the disk")
    with tqdm(total=total, desc="download", unit="B", unit_scale=True, disable=quiet) as bar:
        for name, entry in manifest.files.items():
            _fetch_file(remote.file(name), work / name, entry, bar.update)
    (work / MANIFEST).write_bytes(manifest.as_bytes())


def _fetch_file(remote: _Remote, path: Path, entry: FileEntry, advance: Callable[[int], object]) -> None:
    """One file, from where an earlier attempt stopped; from the start again where that does not fit together."""
    for attempt in ("resumed", "whole"):
        if attempt == "whole":
            path.unlink(missing_ok=True)
        _append(remote, path, entry.bytes, advance)
        if path.stat().st_size == entry.bytes and file_digest(path) == entry.sha256:
            return
    raise ChecksumError(
        f"{remote.address} differs from its SHA-256 in the manifest; the release is damaged at its source"
    )


def _fetch_zip(remote: _Remote, work: Path, *, quiet: bool) -> None:
    _clear(work, (ZIP,))
    limit = min(MAX_ZIP_BYTES, shutil.disk_usage(work).free - FREE_BYTES)
    with tqdm(desc="download", unit="B", unit_scale=True, disable=quiet) as bar:
        _append(remote, work / ZIP, limit, bar.update)
    unpack(work / ZIP, work)
    (work / ZIP).unlink()


def _clear(work: Path, names: Any) -> None:
    """Remove what an earlier attempt left that is none of `names`."""
    for entry in work.iterdir():
        if entry.name not in names:
            remove(entry)


def _append(remote: _Remote, path: Path, limit: int, advance: Callable[[int], object]) -> None:
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
            _run(_receive(remote, write, limit, start=start, restart=restart))
        except _NothingLeftError:
            restart()
            _run(_receive(remote, write, limit))


async def _receive(
    remote: _Remote,
    write: Callable[[bytes], object],
    limit: int,
    *,
    start: int = 0,
    restart: Callable[[], object] = lambda: None,
) -> None:
    """Hand on the bytes of a file, as sent (nothing is unpacked), from `start` on or, after `restart`, all of them."""
    patience, loop = remote.patience, asyncio.get_running_loop()
    began = loop.time()
    try:
        async with asyncio.timeout(patience.start) as deadline, _opened(remote, start) as response:
            if start and response.status_code != 206:
                restart()
                start = 0
            n_bytes = 0
            async for block in response.aiter_raw():
                n_bytes += len(block)
                if start + n_bytes > limit:
                    raise DataError(f"{remote.address} is larger than the {limit:,} bytes it may have")
                write(block)
                deadline.reschedule(began + patience.start + n_bytes / patience.bytes_per_second)
    except TimeoutError as error:
        raise InterruptedDownloadError(
            f"{remote.address} is too slow: under {patience.bytes_per_second:,.0f} bytes per second after the first"
            f" {patience.start:g} s; try again to go on from there"
        ) from error
    except httpx2.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise InterruptedDownloadError(
            f"{remote.address}: {reason}; try again to go on from there"
        ) from error


@asynccontextmanager
async def _opened(remote: _Remote, start: int) -> AsyncGenerator[httpx2.Response, None]:
    headers = {"User-Agent": f"safesail/{__version__}", **remote.headers, "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"

    async def check(request: httpx2.Request) -> None:
        """Redirects too go to no address that would have been refused."""
        _check_address(str(request.url))

    async with (
        # Credentials are not sent on to another origin.
        httpx2.AsyncClient(
            timeout=remote.patience.idle, follow_redirects=True, max_redirects=MAX_REDIRECTS,
            event_hooks={"request": [check]},
        ) as client,
        client.stream("GET", remote.address, headers=headers) as response,
    ):  # fmt: skip
        if response.status_code in (401, 403, 404, 410):
            raise NotFoundError(
                f"{remote.address} is not there, or not public ({response.status_code}); for a private data set set"
                " HF_TOKEN"
            )
        if start and response.status_code == 416:
            raise _NothingLeftError(f"{remote.address} has no byte {start:,}")
        if not response.is_success:
            raise InterruptedDownloadError(
                f"{remote.address} answered {response.status_code}; try again to go on"
            )
        yield response


def _run(task: Coroutine[Any, Any, None]) -> None:
    """Run to the end, also where an event loop is running already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(task)
        return
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, task).result()

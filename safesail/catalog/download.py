"""Getting a release from a folder, a zip, an address or the Hugging Face hub; seen by nobody before it is verified."""

import os
import re
import shutil
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.parse import quote, urljoin, urlsplit

from tqdm import tqdm

from safesail import __version__
from safesail.catalog.archive import FREE_BYTES, unpack
from safesail.catalog.format import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    FileEntry,
    Manifest,
    parse_manifest,
    read_manifest,
)
from safesail.catalog.release import file_digest, release_digest
from safesail.catalog.verify import verify_folder
from safesail.errors import ChecksumError, ConfigError, DataError, NotFoundError

TIMEOUT_SECONDS = 30.0
BLOCK = 2**20
MAX_ZIP_BYTES = 256 * 2**30
LOOPBACK = {"localhost", "127.0.0.1", "::1"}

_HUB = re.compile(r"^hf:(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?$")


class InterruptedDownloadError(DataError):
    """The connection broke; what has come is kept, and the next attempt goes on from there."""


def download(source: str, out: Path, *, quiet: bool = False) -> Path:
    """Get a release, verify all of it, and put it at `out`, a folder.

    Args:
        source: A folder, a zip, an https address of a zip or of a release's folder, or `hf:org/name[@revision]`.
        out: Where the release's folder will be.
        quiet: No progress on stderr.

    Raises:
        ConfigError: no such kind of source, or something else lies at `out`.
        NotFoundError: nothing at `source`.
        DataError: what came is refused: damaged, of another format, or not a release. Nothing is left of it.
    """
    if "://" not in source and not source.startswith("hf:"):
        return _place(Path(source), out)
    address = _address(source)
    work = out.parent / f".{out.name}.partial"
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        work.mkdir(exist_ok=True)
        if urlsplit(address).path.endswith(".zip"):
            _fetch_zip(address, work, quiet=quiet)
            return _place(work / "release.zip", out, leftover=work)
        manifest = parse_manifest(_fetch_small(urljoin(address, MANIFEST)), f"{source}: {MANIFEST}")
        _fetch_files(address, manifest, work, quiet=quiet)
        return _place(work, out, leftover=work)
    except InterruptedDownloadError:
        raise
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _place(found: Path, out: Path, *, leftover: Path | None = None) -> Path:
    """Copy or unpack beside `out`, verify, and move there at once."""
    if not found.exists():
        raise NotFoundError(f"nothing at {found}")
    fresh = out.parent / f".{out.name}.{os.getpid()}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        fresh.mkdir()
        if found.is_dir():
            _copy_release(found, fresh)
        else:
            unpack(found, fresh)
        manifest = verify_folder(fresh)
        if out.exists() and not _is_same(out, manifest):
            raise ConfigError(f"something else lies at {out}; choose another --out")
        if not out.exists():
            fresh.replace(out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    if leftover is not None:
        shutil.rmtree(leftover, ignore_errors=True)
    return out


def _copy_release(folder: Path, target: Path) -> None:
    """The files that the manifest names; never what a link points to."""
    for name in (MANIFEST, *read_manifest(folder).files):
        path = folder / name
        if path.is_symlink():
            raise DataError(f"{path} is a link; a release has plain files only")
        if not path.is_file():
            raise ChecksumError(f"{path} is missing; the release is not whole")
        shutil.copyfile(path, target / name)


def _is_same(out: Path, manifest: Manifest) -> bool:
    return (out / MANIFEST).is_file() and release_digest(read_manifest(out)) == release_digest(manifest)


def _address(source: str) -> str:
    """The address behind a source; only https leaves this machine.

    Raises:
        ConfigError: another kind of source.
    """
    if source.startswith("hf:"):
        found = _HUB.match(source)
        if not found or ".." in source:
            raise ConfigError(f"{source!r} is not hf:organisation/name, or hf:organisation/name@revision")
        hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
        return _check_address(f"{hub}/datasets/{found['repo']}/resolve/{quote(found['revision'] or 'main')}/")
    address = _check_address(source)
    path = urlsplit(address).path
    return address if path.endswith(("/", ".zip", MANIFEST)) else f"{address}/"


def _check_address(address: str) -> str:
    parts = urlsplit(address)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK):
        return address
    raise ConfigError(
        f"{address} is not https; a release is fetched over https, from a path, or from hf:org/name"
    )


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never to an address that would have been refused."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Check the new address first."""
        return super().redirect_request(req, fp, code, msg, headers, _check_address(newurl))


@contextmanager
def _opened(address: str, start: int = 0) -> Generator[HTTPResponse, None, None]:
    headers = {"User-Agent": f"safesail/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    opener = urllib.request.build_opener(_SafeRedirects)
    try:
        with opener.open(
            urllib.request.Request(address, headers=headers), timeout=TIMEOUT_SECONDS
        ) as response:
            yield response
    except HTTPError as error:
        if error.code in (404, 401, 403, 410):
            raise NotFoundError(f"{address} is not there, or not public ({error.code})") from error
        raise InterruptedDownloadError(f"{address} answered {error.code}; try again to go on") from error
    except (OSError, HTTPException) as error:
        raise InterruptedDownloadError(f"{address}: {error}; try again to go on from there") from error


def _fetch_small(address: str) -> bytes:
    with _opened(address) as response:
        return response.read(MAX_MANIFEST_BYTES + 1)


def _fetch_files(address: str, manifest: Manifest, work: Path, *, quiet: bool) -> None:
    total = sum(entry.bytes for entry in manifest.files.values())
    if total + FREE_BYTES > shutil.disk_usage(work).free:
        raise DataError(f"{address} needs {total:,} bytes, which do not fit on the disk")
    with tqdm(total=total, desc="download", unit="B", unit_scale=True, disable=quiet) as bar:
        for name, entry in manifest.files.items():
            _fetch_file(urljoin(address, name), work / name, entry, bar.update)
    (work / MANIFEST).write_bytes(manifest.as_bytes())


def _fetch_file(address: str, path: Path, entry: FileEntry, advance: Callable[[int], object]) -> None:
    """One file, from where an earlier attempt stopped; from the start again where that does not fit together."""
    for attempt in ("resumed", "whole"):
        if attempt == "whole":
            path.unlink(missing_ok=True)
        _append(address, path, entry.bytes, advance)
        if path.stat().st_size == entry.bytes and file_digest(path) == entry.sha256:
            return
    raise ChecksumError(
        f"{address} differs from its SHA-256 in the manifest; the release is damaged at its source"
    )


def _append(address: str, path: Path, limit: int, advance: Callable[[int], object]) -> None:
    """Go on with `path` up to `limit` bytes.

    Raises:
        InterruptedDownloadError: the connection broke.
        DataError: the file is larger than `limit`.
    """
    start = path.stat().st_size if path.is_file() else 0
    if start == limit and start > 0:
        return
    with _opened(address, start) as response:
        resumed = start > 0 and response.status == 206
        expected = response.length
        came = 0
        with path.open("ab" if resumed else "wb") as stream:
            while block := response.read(BLOCK):
                came += len(block)
                if (start if resumed else 0) + came > limit:
                    raise DataError(f"{address} is larger than the {limit:,} bytes it may have")
                stream.write(block)
                advance(len(block))
    if expected is not None and came < expected:
        raise InterruptedDownloadError(
            f"{address} broke off after {came:,} bytes; try again to go on from there"
        )


def _fetch_zip(address: str, work: Path, *, quiet: bool) -> None:
    limit = min(MAX_ZIP_BYTES, shutil.disk_usage(work).free - FREE_BYTES)
    with tqdm(desc="download", unit="B", unit_scale=True, disable=quiet) as bar:
        _append(address, work / "release.zip", limit, bar.update)

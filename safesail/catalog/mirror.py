"""A folder that holds what a server offers: fetched in parallel, resumed, checked, and fetched again where it changed.

Knows nothing of what the files say. A journal in the folder tells which file is whole, of which version, with which
SHA-256; a file is in the journal only after it was checked, so a kill at any moment loses at most a few blocks.
"""

import asyncio
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

import httpx2
from tqdm import tqdm

from safesail.catalog.archive import FREE_BYTES
from safesail.catalog.format import file_digest
from safesail.catalog.transfer import (
    Held,
    InterruptedDownloadError,
    NothingLeftError,
    Remote,
    Reply,
    receive,
)
from safesail.errors import DataError, NotFoundError
from safesail.files import claim, remove

JOURNAL = ".journal.jsonl"
LOCK = ".lock"
PARALLEL = 8
MAX_FILE_BYTES = 16 * 2**30
"""Of a file whose size no listing says."""

MAX_CONSECUTIVE = 8
"""Files that fail one after another until the server counts as gone."""

_PART = re.compile(r"[A-Za-z0-9][\w.=+@-]{0,200}")
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')


def is_plain_path(path: str) -> bool:
    """Whether a relative path has plain names only, and leads nowhere else."""
    parts = path.split("/")
    return len(parts) <= 8 and all(_PART.fullmatch(part) for part in parts)


@dataclass(frozen=True)
class Offered:
    """A file that a server offers."""

    path: str
    """In the mirror."""

    remote: Remote
    bytes: int | None = None
    """None: no listing says it."""

    etag: str | None = None
    """None: no listing says it, and the server is asked whether the file has changed."""


@dataclass(frozen=True)
class Kept:
    """A file of the mirror that is whole."""

    path: str
    bytes: int
    etag: str | None
    sha256: str
    modified_ns: int


@dataclass(frozen=True)
class Lost:
    """A file that could not be had, and why."""

    path: str
    reason: str


@dataclass
class Mirrored:
    """How a mirror stands after a run."""

    kept: dict[str, Kept]
    """By path."""

    lost: list[Lost] = field(default_factory=list)
    n_fetched: int = 0
    n_bytes: int = 0
    """That came now."""

    @property
    def digest(self) -> str:
        """SHA-256 over names and contents."""
        lines = "".join(f"{path}\0{self.kept[path].sha256}\n" for path in sorted(self.kept))
        return hashlib.sha256(lines.encode()).hexdigest()


class Mirror:
    """An open mirror. Made by `open_mirror`."""

    def __init__(self, folder: Path, journal: IO[str]) -> None:
        self.folder = folder
        self._journal = journal
        self._kept = _read_journal(folder)

    def folders(self) -> set[str]:
        """Names of the folders in which there is something."""
        return {path.partition("/")[0] for path in self._kept if "/" in path}

    async def fetch(
        self, client: httpx2.AsyncClient, wanted: Sequence[Offered], *, quiet: bool = True
    ) -> Mirrored:
        """Bring the folder to what is wanted: no more, no less, each file as its server has it now.

        Raises:
            InterruptedDownloadError: the server is gone; what has come is kept.
            DataError: it does not fit on the disk.
        """
        self._forget({file.path for file in wanted})
        missing = [file for file in wanted if not self._is_current(file)]
        total = sum(file.bytes or 0 for file in missing)
        if total + FREE_BYTES > shutil.disk_usage(self.folder).free:
            raise DataError(f"{total:,} bytes do not fit on the disk of {self.folder}; free some space")
        state = Mirrored(self._kept)
        with tqdm(total=total or None, desc="download", unit="B", unit_scale=True, disable=quiet) as bar:
            await self._fetch_all(client, missing, state, bar.update)
        self._sweep(wanted)
        return state

    async def _fetch_all(
        self,
        client: httpx2.AsyncClient,
        missing: Sequence[Offered],
        state: Mirrored,
        advance: Callable[[int], object],
    ) -> None:
        waiting = iter(missing)
        in_a_row = 0

        async def work() -> None:
            nonlocal in_a_row
            for file in waiting:
                if in_a_row >= MAX_CONSECUTIVE:
                    return
                try:
                    await self._fetch_patiently(client, file, state, advance)
                    in_a_row = 0
                except DataError as error:
                    in_a_row += isinstance(error, InterruptedDownloadError)
                    state.lost.append(Lost(file.path, str(error).replace(file.remote.address, file.path)))

        async with asyncio.TaskGroup() as group:
            for _ in range(min(PARALLEL, len(missing))):
                group.create_task(work())
        state.lost.sort(key=lambda lost: lost.path)
        if in_a_row >= MAX_CONSECUTIVE:
            raise InterruptedDownloadError(
                f"{len(self._kept):,} of {len(self._kept) + len(missing) - state.n_fetched:,} files are here, then the"
                f" server failed ({state.lost[-1].path}: {state.lost[-1].reason}); try again to go on from there"
            )

    async def _fetch_patiently(
        self, client: httpx2.AsyncClient, file: Offered, state: Mirrored, advance: Callable[[int], object]
    ) -> None:
        patience = file.remote.patience
        for attempt in range(1, patience.attempts + 1):
            try:
                await self._fetch_once(client, file, state, advance)
                return
            except NotFoundError:
                raise
            except DataError as error:
                wrong = isinstance(error, _WrongBytesError)
                if attempt == patience.attempts or not (wrong or isinstance(error, InterruptedDownloadError)):
                    raise
            await asyncio.sleep(patience.pause * 2 ** (attempt - 1))

    async def _fetch_once(
        self, client: httpx2.AsyncClient, file: Offered, state: Mirrored, advance: Callable[[int], object]
    ) -> None:
        part = self._part(file)
        part.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        known = self._kept.get(file.path)
        held = (
            Held(0, known.etag, whole=True)
            if known is not None and file.etag is None and known.etag is not None
            else Held(part.stat().st_size if part.is_file() else 0, file.etag)
        )
        if file.bytes is None or held.n_bytes != file.bytes:
            reply = await _append(client, file, part, held, advance)
            if reply.unchanged:
                part.unlink(missing_ok=True)
                return
            etag = file.etag or reply.etag
        else:
            etag = file.etag
        _check(part, file)
        self._keep(part, file.path, etag)
        state.n_fetched += 1
        state.n_bytes += self._kept[file.path].bytes

    def _part(self, file: Offered) -> Path:
        """Where the bytes of this version gather."""
        version = hashlib.sha256(f"{file.etag} {file.bytes}".encode()).hexdigest()[:8]
        path = self.folder / file.path
        return path.with_name(f".{path.name}.{version}.part")

    def _keep(self, part: Path, path: str, etag: str | None) -> None:
        descriptor = os.open(part, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sha256 = file_digest(part)
        part.replace(self.folder / path)
        info = (self.folder / path).stat()
        self._kept[path] = Kept(path, info.st_size, etag, sha256, info.st_mtime_ns)
        self._journal.write(json.dumps(asdict(self._kept[path])) + "\n")
        self._journal.flush()

    def _is_current(self, file: Offered) -> bool:
        kept = self._kept.get(file.path)
        return (
            kept is not None and file.etag is not None and (kept.etag, kept.bytes) == (file.etag, file.bytes)
        )

    def _forget(self, wanted: set[str]) -> None:
        for path in [path for path in self._kept if path not in wanted]:
            del self._kept[path]

    def _sweep(self, wanted: Sequence[Offered]) -> None:
        """Remove what is no longer offered, and parts of versions that are gone."""
        keep = {self.folder / name for name in (JOURNAL, LOCK, *(file.path for file in wanted))}
        keep |= {self._part(file) for file in wanted}
        for path in list(self.folder.rglob("*")):
            if not path.is_dir() and path not in keep:
                remove(path)


class _WrongBytesError(DataError):
    """What came is not what the listing says."""


async def _append(
    client: httpx2.AsyncClient, file: Offered, part: Path, held: Held, advance: Callable[[int], object]
) -> Reply:
    limit = MAX_FILE_BYTES if file.bytes is None else file.bytes
    with part.open("ab") as stream:

        def write(block: bytes) -> None:
            stream.write(block)
            advance(len(block))

        def restart() -> None:
            stream.truncate(0)

        try:
            return await receive(client, file.remote, write, limit, held=held, restart=restart)
        except NothingLeftError:
            restart()
            return await receive(client, file.remote, write, limit)
        except InterruptedDownloadError:
            raise
        except DataError:
            part.unlink()
            raise


def _check(part: Path, file: Offered) -> None:
    """Raises `_WrongBytesError`, and removes the part, where size or MD5 are not those of the listing."""
    size = part.stat().st_size
    stated = _MD5.fullmatch(file.etag or "") if file.bytes is not None else None
    if file.bytes is not None and size != file.bytes:
        fault = f"{size:,} bytes came, the listing says {file.bytes:,}"
    elif stated is not None and _md5(part) != stated[1]:
        fault = "the bytes differ from the ETag of the listing"
    else:
        return
    part.unlink()
    raise _WrongBytesError(f"{file.path}: {fault}")


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        # S3's ETag of an object that was stored in one piece; a check against damage, not against an enemy.
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


@contextmanager
def open_mirror(folder: Path) -> Generator[Mirror, None, None]:
    """The mirror in `folder`, made where there is none; one process at a time.

    Raises:
        DataError: another process is at it, or the folder cannot be written.
    """
    try:
        claim(folder)
        with (folder / LOCK).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DataError(f"another download is writing to {folder}; wait until it ends") from error
            with (folder / JOURNAL).open("a", encoding="utf-8") as journal:
                journal.write("\n")  # what a kill cut off is a line of its own
                yield Mirror(folder, journal)
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error.strerror or error}") from error


def _read_journal(folder: Path) -> dict[str, Kept]:
    """Files that are as the journal says; of one that is listed twice the last line counts."""
    kept: dict[str, Kept] = {}
    for line in (folder / JOURNAL).read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError, TypeError):
            entry = Kept(**json.loads(line))
            kept[entry.path] = entry
    return {
        path: entry for path, entry in kept.items() if is_plain_path(path) and _is_as(folder / path, entry)
    }


def _is_as(path: Path, entry: Kept) -> bool:
    if not path.is_file() or path.is_symlink() or path.stat().st_size != entry.bytes:
        return False
    return path.stat().st_mtime_ns == entry.modified_ns or file_digest(path) == entry.sha256

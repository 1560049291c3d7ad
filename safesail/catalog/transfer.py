"""Fetching one file over HTTP: patient, bounded, resumable, and never beyond where it was sent."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import httpx2

from safesail.errors import ConfigError, DataError, NotFoundError
from safesail.version import __version__
from safesail.waiting import wait_for

MAX_REDIRECTS = 5
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_UNCHANGED, _BEYOND = 304, 416
_Result = TypeVar("_Result")


class InterruptedDownloadError(DataError):
    """The connection broke; what has come is kept, and the next attempt goes on from there."""


class NothingLeftError(InterruptedDownloadError):
    """The server has no byte from where an earlier attempt stopped: what is here is another file, or all of it."""


@dataclass(frozen=True)
class Patience:
    """How slow a server may be, and how often it may fail."""

    idle: float = 30.0
    """Seconds without a byte."""

    start: float = 60.0
    """Seconds per file, besides those that its bytes may take."""

    bytes_per_second: float = 20_000.0
    """Of what has come so far."""

    attempts: int = 4
    """For one file among many."""

    pause: float = 0.5
    """Seconds before the second attempt; each further one waits twice as long."""


PATIENT = Patience()


@dataclass(frozen=True)
class Remote:
    """A file, or a folder of files, on a server."""

    address: str
    """A folder ends in a slash."""

    patience: Patience = PATIENT
    headers: dict[str, str] = field(default_factory=dict)
    redirects: bool = False
    """Whether the server may hand on to others, as the hub does with large files."""

    def file(self, name: str) -> "Remote":
        """A file of the folder."""
        return replace(self, address=urljoin(self.address, name))


@dataclass(frozen=True)
class Reply:
    """What a server said of a file that came."""

    etag: str | None
    unchanged: bool = False
    """It is still what the caller has, and was not sent."""


@dataclass(frozen=True)
class Held:
    """What the caller has of a file already."""

    n_bytes: int = 0
    """From its start."""

    etag: str | None = None
    """Of the version that those bytes are of."""

    whole: bool = False
    """All of it: asked is only whether it has changed."""


def check_address(address: str) -> str:
    """The address, if it may be asked: https, or http on this machine.

    Raises:
        ConfigError: it may not.
    """
    parts = urlsplit(address)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK):
        return address
    raise ConfigError(
        f"{address} is not https; a release is fetched over https, from a path, or from hf:org/name"
    )


@asynccontextmanager
async def http_client(patience: Patience, *, redirects: bool) -> AsyncGenerator[httpx2.AsyncClient, None]:
    """A client that asks nothing but allowed addresses; credentials are not sent on to another origin."""

    async def check(request: httpx2.Request) -> None:
        check_address(str(request.url))

    async with httpx2.AsyncClient(
        timeout=patience.idle, follow_redirects=redirects, max_redirects=MAX_REDIRECTS,
        event_hooks={"request": [check]},
    ) as client:  # fmt: skip
        yield client


async def receive(
    client: httpx2.AsyncClient,
    remote: Remote,
    write: Callable[[bytes], object],
    limit: int,
    *,
    held: Held = Held(),
    restart: Callable[[], object] = lambda: None,
) -> Reply:
    """Hand on the bytes of a file, as sent (nothing is unpacked).

    Args:
        client: As `http_client` gives it.
        remote: The file.
        write: Takes each block.
        limit: Most bytes that the whole file may have.
        held: What is here already: the rest is asked for.
        restart: Called before the first block when the server sends all of it although some is here.

    Raises:
        NotFoundError: there is no such file, or it is not public.
        InterruptedDownloadError: the connection broke, is too slow, or the server is not well.
        DataError: the file is larger than `limit`, or the server hands on to another address.
    """
    patience, loop = remote.patience, asyncio.get_running_loop()
    began = loop.time()
    try:
        async with asyncio.timeout(patience.start) as deadline, _opened(client, remote, held) as response:
            if response.status_code == _UNCHANGED:
                return Reply(held.etag, unchanged=True)
            start = held.n_bytes
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
            return Reply(response.headers.get("etag"))
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
async def _opened(
    client: httpx2.AsyncClient, remote: Remote, held: Held
) -> AsyncGenerator[httpx2.Response, None]:
    headers = {"User-Agent": f"safesail/{__version__}", **remote.headers, "Accept-Encoding": "identity"}
    if held.whole and held.etag is not None:
        headers["If-None-Match"] = held.etag
    elif held.n_bytes:
        headers["Range"] = f"bytes={held.n_bytes}-"
        # A weak tag says nothing of bytes.
        if held.etag is not None and not held.etag.startswith("W/"):
            headers["If-Range"] = held.etag
    async with client.stream("GET", remote.address, headers=headers) as response:
        status = response.status_code
        if status in (401, 403, 404, 410):
            raise NotFoundError(
                f"{remote.address} is not there, or not public ({status}); for a private data set set HF_TOKEN"
            )
        if held.n_bytes and status == _BEYOND:
            raise NothingLeftError(f"{remote.address} has no byte {held.n_bytes:,}")
        if response.is_redirect:
            raise DataError(
                f"{remote.address} hands on to {response.headers.get('location', '')[:100]!r}; that is not followed"
            )
        if not response.is_success and not (status == _UNCHANGED and held.whole):
            raise InterruptedDownloadError(f"{remote.address} answered {status}; try again to go on")
        yield response


async def receive_one(
    remote: Remote,
    write: Callable[[bytes], object],
    limit: int,
    *,
    held: Held = Held(),
    restart: Callable[[], object] = lambda: None,
) -> Reply:
    """As `receive`, with a connection of its own."""
    async with http_client(remote.patience, redirects=remote.redirects) as client:
        return await receive(client, remote, write, limit, held=held, restart=restart)


def run_to_end(task: Coroutine[Any, Any, _Result]) -> _Result:
    """Run to the end, also where an event loop is running already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return wait_for(task)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, task).result()

"""The pages served on loopback: one thread reads the catalog, and answers come in turn."""

import asyncio
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from safesail.domain.ids import FeatureId
from safesail.errors import ConfigError, NotFoundError, SafeSailError
from safesail.view.config import ViewOptions
from safesail.view.desk import Desk, open_desk
from safesail.view.guard import Guard, own_hosts
from safesail.view.landscape import CHUNK, Landscape, points_script, texts_script
from safesail.view.links import ServerLinks
from safesail.view.listing import MAX_HITS, MAX_QUERY, ListQuery
from safesail.view.pages import (
    costs_html,
    error_html,
    feature_html,
    index_html,
    make_map,
    map_html,
    map_input,
    saes_html,
)
from safesail.view.render import STATIC

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)
LINKS = ServerLinks()
SCRIPT = "text/javascript; charset=utf-8"


class Reading:
    """A desk in a thread of its own, in which everything that reads it is run, one after the other."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="reader")
        self._stack = ExitStack()
        self._desk: Desk | None = None
        self._map: Future[Landscape | None] | None = None
        self._map_size = 0

    def open(self, path: Path, options: ViewOptions, *, quiet: bool) -> None:
        """Open the catalog; its faults come out here."""

        def enter() -> Desk:
            return self._stack.enter_context(
                open_desk(path, by=options.by, memory=options.memory, quiet=quiet)
            )

        self._desk = self._pool.submit(enter).result()

    def close(self) -> None:
        """Close it, in the thread that opened it."""
        self._pool.submit(self._stack.close).result()
        self._pool.shutdown()

    @property
    def desk(self) -> Desk:
        """For what is read once and does not change: names, totals."""
        assert self._desk is not None, "not open"
        return self._desk

    async def read(self, task: Callable[Concatenate[Desk, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a task on the desk, after those that came before."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: task(self.desk, *args, **kwargs))

    async def map(self) -> tuple[Landscape | None, int]:
        """The map, or None and how many explanations are being placed for it: 0 where there are too few."""
        if self._map is None:
            given = await self.read(map_input)
            self._map_size = 0 if given is None else len(given.texts)
            self._map = Future()
            if given is None:
                self._map.set_result(None)
            else:
                threading.Thread(
                    target=_settle, args=(self._map, lambda: make_map(given)), daemon=True
                ).start()
        if not self._map.done():
            return None, self._map_size
        return self._map.result(), 0


def _settle(future: "Future[Any]", make: Callable[[], Any]) -> None:
    try:
        future.set_result(make())
    except Exception as error:  # noqa: BLE001 it is raised where the result is asked for
        future.set_exception(error)


def create_app(reading: Reading, hosts: frozenset[str]) -> Starlette:
    """The application; its pages are `PAGES`.

    Args:
        reading: The open catalog.
        hosts: Names that it answers to.
    """
    app = Starlette(
        routes=[
            *(Route(path, page, methods=["GET"]) for path, page in PAGES),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[Middleware(Guard, hosts=hosts)],
        exception_handlers={404: _not_there, SafeSailError: _known_fault, Exception: _unknown_fault},
    )
    app.state.reading = reading
    return app


def _reading(request: Request) -> Reading:
    return request.app.state.reading


async def _index(request: Request) -> Response:
    query = ListQuery.read(request.query_params)
    html, answered = await _reading(request).read(index_html, LINKS, query)
    return HTMLResponse(html, 200 if answered else 400)


async def _feature(request: Request) -> Response:
    asked = request.query_params
    index = asked.get("index", "")
    if not (index.isascii() and index.isdigit() and len(index) <= 9):
        raise ConfigError("a feature's index is a whole number")
    feature = FeatureId(asked.get("sae", ""), int(index))
    near, simulated = "near" in asked, "simulated" in asked
    html = await _reading(request).read(feature_html, LINKS, feature, near=near, simulated=simulated)
    return HTMLResponse(html)


async def _saes(request: Request) -> Response:
    return HTMLResponse(await _reading(request).read(saes_html, LINKS))


async def _costs(request: Request) -> Response:
    return HTMLResponse(await _reading(request).read(costs_html, LINKS))


async def _map(request: Request) -> Response:
    reading = _reading(request)
    landscape, making = await reading.map()
    return HTMLResponse(await reading.read(map_html, LINKS, landscape, making=making))


async def _points(request: Request) -> Response:
    reading = _reading(request)
    landscape = await _placed(reading)
    desk = reading.desk
    script = await asyncio.to_thread(
        points_script, landscape, [sae.sae_id for sae in desk.saes], desk.domains
    )
    return Response(script, media_type=SCRIPT)


async def _texts(request: Request) -> Response:
    landscape = await _placed(_reading(request))
    chunk = int(request.path_params["chunk"])
    if chunk * CHUNK >= landscape.n:
        raise NotFoundError("the map has no such part")
    return Response(texts_script(landscape, chunk), media_type=SCRIPT)


async def _placed(reading: Reading) -> Landscape:
    landscape, _ = await reading.map()
    if landscape is None:
        raise NotFoundError("there is no map, or not yet")
    return landscape


async def _map_hits(request: Request) -> Response:
    """Numbers of the map's points that a search finds, best first."""
    reading = _reading(request)
    landscape = await _placed(reading)
    query = request.query_params.get("q", "")[:MAX_QUERY]
    hits = await reading.read(lambda desk: desk.index.search(query, limit=MAX_HITS).hits)
    number = await asyncio.to_thread(_numbers, landscape)
    return JSONResponse([number[key] for hit in hits if (key := (hit.sae_id, hit.index)) in number])


def _numbers(landscape: Landscape) -> dict[tuple[str, int], int]:
    return {(text.sae_id, text.index): at for at, text in enumerate(landscape.texts)}


PAGES: list[tuple[str, Callable[[Request], Awaitable[Response]]]] = [
    ("/", _index),
    ("/feature", _feature),
    ("/saes", _saes),
    ("/costs", _costs),
    ("/map", _map),
    ("/map/hits", _map_hits),
    ("/data/points.js", _points),
    ("/data/texts-{chunk:int}.js", _texts),
]
"""Addresses and what answers there. Pages of other stages are added here and in `render.NAVIGATION`."""


def _failed(request: Request, status: int, title: str, message: str) -> Response:
    # Without the reader's thread: names and totals are read already.
    return HTMLResponse(error_html(_reading(request).desk, LINKS, title, message), status)


async def _not_there(request: Request, _: Exception) -> Response:
    return _failed(request, 404, "Not here", "There is no such page.")


async def _known_fault(request: Request, error: Exception) -> Response:
    if isinstance(error, NotFoundError):
        return _failed(request, 404, "Not here", f"{error}.")
    return _failed(request, 400 if isinstance(error, ConfigError) else 500, "That did not work", f"{error}.")


async def _unknown_fault(request: Request, error: Exception) -> Response:
    logger.error("unexpected %s at %s", type(error).__name__, request.url.path)
    return _failed(
        request, 500, "That did not work", f"Unexpected {type(error).__name__}; the terminal says more."
    )


@contextmanager
def running(
    path: Path, options: ViewOptions, *, quiet: bool
) -> Generator[tuple[uvicorn.Server, str, socket.socket]]:
    """A server that is ready to be run, its address and its socket; the catalog is open within the block.

    Raises:
        ConfigError: the port is taken.
        SafeSailError: the catalog cannot be opened.
    """
    reading = Reading()
    with _listening(options.port) as sock:
        port = int(sock.getsockname()[1])
        reading.open(path, options, quiet=quiet)
        try:
            app = create_app(reading, own_hosts(port))
            config = uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                ws="none",
                timeout_graceful_shutdown=2,
            )
            yield uvicorn.Server(config), f"http://127.0.0.1:{port}/", sock
        finally:
            reading.close()


@contextmanager
def _listening(port: int) -> Generator[socket.socket]:
    """A socket on this machine's own address, which no other can reach."""
    try:
        sock = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise ConfigError(
            f"port {port} cannot be had ({error.strerror}); name another --port, or 0"
        ) from error
    with sock:
        yield sock

"""A chat endpoint on loopback that does as it is told, rudeness included."""

import json
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What goes back, and how."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    """Waits so long first."""

    send: float = 1.0
    """Share of the body that is sent before the connection is closed."""

    drip: float = 0.0
    """Seconds before each byte."""

    silent: bool = False
    """Closes the connection without a word."""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Send it."""
        time.sleep(self.seconds)
        handler.close_connection = self.silent or self.send < 1
        if self.silent:
            return
        handler.send_response(self.status)
        headers = {"Content-Type": "application/json", **self.headers, "Content-Length": str(len(self.body))}
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        body = self.body[: int(len(self.body) * self.send)]
        for piece in [body[i : i + 1] for i in range(len(body))] if self.drip else [body]:
            time.sleep(self.drip)
            handler.wfile.write(piece)


Script = Callable[[dict[str, Any]], Reply]
"""From the request's JSON to the reply; called by one thread at a time."""


def chat(
    text: str | None,
    *,
    finish: str = "stop",
    usage: dict[str, Any] | None = None,
    message: dict[str, Any] | None = None,
    **more: Any,
) -> Reply:
    """A reply in the form of the chat endpoint; `message` and `more` go into it as they are."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, **(message or {})},
        "finish_reason": finish,
    }
    body: dict[str, Any] = {"id": "1", "object": "chat.completion", "created": 1, "model": "m",
                            "choices": [choice]}  # fmt: skip
    if usage is not None:
        body["usage"] = usage
    return Reply(json.dumps(body | more).encode())


def fault(
    status: int, message: str, code: str | None = None, param: str | None = None, **headers: str
) -> Reply:
    """An error in the endpoint's own form."""
    body = {"error": {"message": message, "code": code, "param": param, "type": "x"}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(json.dumps(body).encode(), status, named)


@contextmanager
def serving(script: Script) -> Generator[str, None, None]:
    """Serve until the block ends; gives the base URL."""
    turn = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            body = self.rfile.read(length)
            if len(body) < length:  # the client was killed while it asked
                self.close_connection = True
                return
            with turn:
                reply = script(json.loads(body))
            reply.answer(self)

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:  # the client is gone: it had no patience, or was killed
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

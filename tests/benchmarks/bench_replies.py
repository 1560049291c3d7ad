"""The worst replies of an endpoint: memory and time that each takes from the client that gets it.

    python -m tests.benchmarks.bench_replies [MEGABYTES]

Each reply goes from a server on loopback, which makes it as it sends it, to a client in a process of its own. One JSON
object on standard output: by reply the seconds from request to outcome, the megabytes by which the client's peak memory
rose above that of a usual answer, the megabytes that the server got rid of, and what a run is told.
"""

import asyncio
import json
import resource
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from safesail.errors import LLMError
from safesail.llm.openai_client import OpenAIClient
from safesail.llm.types import LLMRequest
from tests.loopback import chat

TIMEOUT = 3.0
"""Seconds for one attempt; 120 where nothing else is said."""

MEGABYTE = 2**20
GOOD = chat("yes", usage={"prompt_tokens": 11, "completion_tokens": 3}).body
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

Body = Iterator[bytes]


def replies(megabytes: int) -> dict[str, Callable[[], Body]]:
    """What the server sends, by name, head and body."""
    padded = b'{"choices": [{"message": {"content": "' + b"a" * (4 * MEGABYTE - 60) + b'"}}]}'
    packed = _packed(megabytes)
    lists = b"[" + b"[]," * ((4 * MEGABYTE - 9) // 3) + b"[]]"
    return {
        "usual": lambda: iter([_sized(len(GOOD)), GOOD]),
        f"body of {megabytes} MB": lambda: _large(_sized(megabytes * MEGABYTE), megabytes),
        f"body of {megabytes} MB without a length": lambda: _large(HEAD + b"Connection: close\r\n\r\n", megabytes),
        f"error with a body of {megabytes} MB": lambda: _large(
            _sized(megabytes * MEGABYTE).replace(b"200 OK", b"500 Oops"), megabytes
        ),
        f"gzip of {len(packed) / 1e6:.1f} MB that unpacks to {megabytes} MB": lambda: iter(
            [_sized(len(packed))[:-2] + b"Content-Encoding: gzip\r\n\r\n", packed]
        ),
        "text of 4 MB, within the limit": lambda: iter([_sized(len(padded)), padded]),
        "4 MB of empty lists": lambda: iter([_sized(len(lists)), lists]),
        "200,000 nested lists": lambda: iter([_sized(200_000), b"[" * 200_000]),
        "a byte per half second": lambda: _dripping(_sized(len(GOOD)), GOOD, 0.5),
        "a byte of the head per half second": lambda: _dripping(b"", _sized(len(GOOD)), 0.5),
        "head without an end": lambda: _endless(b"HTTP/1.1 200 OK\r\n", b"X: " + b"a" * 1000 + b"\r\n", megabytes),
        "interim replies without an end": lambda: _endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 40, megabytes),
        "silence": lambda: _dripping(b"", b"x", 60.0),
    }  # fmt: skip


def _sized(n_bytes: int) -> bytes:
    return HEAD + f"Content-Length: {n_bytes}\r\n\r\n".encode()


def _large(head: bytes, megabytes: int) -> Body:
    yield head
    for _ in range(megabytes):
        yield b" " * MEGABYTE


def _packed(megabytes: int) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    return b"".join(packer.compress(b" " * MEGABYTE) for _ in range(megabytes)) + packer.flush()


def _dripping(first: bytes, rest: bytes, seconds: float) -> Body:
    yield first
    for i in range(len(rest)):
        time.sleep(seconds)
        yield rest[i : i + 1]


def _endless(first: bytes, more: bytes, megabytes: int) -> Body:
    yield first
    for _ in range(megabytes * MEGABYTE // len(more)):
        yield more


@contextmanager
def sending(make: Callable[[], Body]) -> Generator[tuple[str, list[int]], None, None]:
    """Serve one reply to all who ask; gives the base URL, and the bytes sent so far."""
    sent = [0]
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            with connection.makefile("rb") as request:  # what is left unread would break the connection
                lines = list(iter(request.readline, b"\r\n"))
                request.read(
                    next(int(x.split(b":")[1]) for x in lines if x.lower().startswith(b"content-length"))
                )
            for piece in make():
                connection.sendall(piece)
                sent[0] += len(piece)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", sent
    finally:
        listener.close()


def ask(usual: str, url: str) -> dict[str, Any]:
    """Ask twice, the second time where the reply is bad; in a process of its own, whose memory only grows."""
    request = LLMRequest("m", url, "", "question", 0.0, 20)
    asyncio.run(OpenAIClient(usual, "none", "m", timeout=TIMEOUT).complete(request))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, cpu = time.perf_counter(), time.process_time()
    try:
        outcome = asyncio.run(OpenAIClient(url, "none", "m", timeout=TIMEOUT).complete(request)).text[:20]
    except LLMError as error:
        outcome = f"{type(error).__name__}: {error}"
    return {
        "seconds": round(time.perf_counter() - start, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "megabytes_above_usual": round(
            (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, 1
        ),
        "outcome": outcome,
    }


def measure(megabytes: int) -> dict[str, Any]:
    """Every reply in turn."""
    found: dict[str, Any] = {}
    made = replies(megabytes)
    with sending(made["usual"]) as (usual, _):
        for name, make in made.items():
            with sending(make) as (url, sent):
                command = [sys.executable, "-m", "tests.benchmarks.bench_replies", "--ask", usual, url]
                done = subprocess.run(command, capture_output=True, check=True, text=True)
                found[name] = json.loads(done.stdout) | {"megabytes_sent": round(sent[0] / MEGABYTE, 1)}
    return found


def main() -> None:
    """Run and print."""
    if sys.argv[1:2] == ["--ask"]:
        result = ask(*sys.argv[2:])
    else:
        result = {"timeout": TIMEOUT, "replies": measure(int(sys.argv[1]) if len(sys.argv) > 1 else 800)}
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

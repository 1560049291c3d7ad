"""A public bucket on loopback: S3's listing, ETags, ranges; and one that lies, dawdles and breaks off when told to."""

import gzip
import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

SOURCE = "gemma-2-2b/20-gemmascope-res-16k"
"""A source that SAELens' directory ties to an SAE of 16,384 features."""


@dataclass
class Bucket:
    """Objects by key, and the server's moods; changed while it runs."""

    objects: dict[str, bytes]
    address: str = ""
    page: int = 1000
    """Keys per page of the listing."""

    asked: list[tuple[str, int]] = field(default_factory=list)
    """Key and first byte of every object that was asked for."""

    sent: int = 0
    """Bytes of objects."""

    break_off: dict[str, int] = field(default_factory=dict)
    """Once, after so many bytes."""

    fail: Callable[[str], int | None] = lambda _: None
    """Status with which a key is refused."""

    lie: dict[str, bytes] = field(default_factory=dict)
    """Sent in the place of what is listed."""

    seconds_per_block: float = 0.0
    block: int = 16_384
    etags: bool = True
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def served(objects: dict[str, bytes]) -> Generator[Bucket, None, None]:
    """A running bucket."""
    bucket = Bucket(objects)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(bucket, self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    bucket.address = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield bucket
    finally:
        server.shutdown()
        server.server_close()


def etag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def answer(bucket: Bucket, handler: BaseHTTPRequestHandler) -> None:
    parts = urlsplit(handler.path)
    query = parse_qs(parts.query)
    if "list-type" in query:
        return send(handler, 200, listing(bucket, query), {"Content-Type": "application/xml"})
    key = unquote(parts.path.removeprefix("/"))
    status = bucket.fail(key)
    if status is not None or key not in bucket.objects:
        return send(handler, status or 404, b"")
    content = bucket.lie.get(key, bucket.objects[key])
    headers = {"ETag": etag(content)} if bucket.etags else {}
    if handler.headers.get("If-None-Match") == headers.get("ETag", "none"):
        return send(handler, 304, b"", headers)
    start = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
    if handler.headers.get("If-Range", headers.get("ETag")) != headers.get("ETag"):
        start = 0
    if start and start >= len(content):
        return send(handler, 416, b"")
    with bucket.lock:
        bucket.asked.append((key, start))
    return stream(bucket, handler, key, content, start, headers)


def stream(
    bucket: Bucket,
    handler: BaseHTTPRequestHandler,
    key: str,
    content: bytes,
    start: int,
    headers: dict[str, str],
) -> None:
    body = content[start:]
    short = bucket.break_off.pop(key, None)
    handler.send_response(206 if start else 200)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        handler.send_header(name, value)
    handler.end_headers()
    body = body[:short]
    try:
        for at in range(0, len(body), bucket.block):
            time.sleep(bucket.seconds_per_block)
            handler.wfile.write(body[at : at + bucket.block])
            with bucket.lock:
                bucket.sent += len(body[at : at + bucket.block])
    except OSError:
        handler.close_connection = True
    if short is not None:
        handler.close_connection = True


def send(
    handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None
) -> None:
    handler.send_response(status)
    for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def listing(bucket: Bucket, query: dict[str, list[str]]) -> bytes:
    """A page of S3's ListObjectsV2, after its documentation."""
    prefix = query.get("prefix", [""])[0]
    after = query.get("continuation-token", [""])[0]
    keys = sorted(key for key in bucket.objects if key.startswith(prefix) and key > after)
    page = keys[: bucket.page]
    more = len(keys) > len(page)
    entries = "".join(
        f"<Contents><Key>{escape(key)}</Key><LastModified>2025-01-01T00:00:00.000Z</LastModified>"
        f"<ETag>{escape(etag(bucket.objects[key]))}</ETag><Size>{len(bucket.objects[key])}</Size>"
        f"<StorageClass>STANDARD</StorageClass></Contents>"
        for key in page
    )
    token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>neuronpedia-datasets</Name>'
        f"<Prefix>{escape(prefix)}</Prefix><KeyCount>{len(page)}</KeyCount><MaxKeys>{bucket.page}</MaxKeys>"
        f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{entries}</ListBucketResult>"
    ).encode()


def batches(folder: str, rows: Iterable[dict[str, Any]], size: int) -> dict[str, bytes]:
    """Rows as `folder/batch-N.jsonl.gz`."""
    listed = list(rows)
    return {
        f"{folder}/batch-{n}.jsonl.gz": gzip.compress(
            "".join(json.dumps(row) + "\n" for row in listed[at : at + size]).encode(), 1, mtime=0
        )
        for n, at in enumerate(range(0, len(listed), size))
    }


def neuronpedia(
    n: int, *, source: str = SOURCE, size: int = 256, windows: int = 0, second: bool = True, seed: int = 0
) -> dict[str, bytes]:
    """A source as Neuronpedia exports it: features and explanations cut in text order, activations in numeric order.

    Args:
        n: Features; the last explanation of every hundred is missing.
        source: `model/source`.
        size: Rows a batch.
        windows: Activations a feature.
        second: A second folder of explanations, by another explainer.
        seed: Of the densities.
    """
    model, layer = source.split("/")
    owner = {"modelId": model, "layer": layer}
    root, by_text = f"v1/{source}", sorted(range(n), key=str)
    draw = random.Random(seed)
    density = {i: round(10 ** draw.uniform(-5, -1), 8) for i in range(n)}
    found = batches(f"{root}/features", (
        {**owner, "index": str(i), "frac_nonzero": density[i], "maxActApprox": 5.0 + i % 7, "pos_str": ["a", "b"]}
        for i in by_text), size)  # fmt: skip
    explainers = [("explanations", "gpt-4o-mini"), ("explanations-gemini-2.0-flash", "gemini-2.0-flash")]
    for folder, explainer in explainers[: 1 + second]:
        found |= batches(f"{root}/{folder}", (
            {"id": f"{explainer}-{i}", **owner, "index": str(i), "description": f"words about topic {i} ({explainer})",
             "typeName": "oai_token-act-pair", "explanationModelName": explainer, "embedding": "[0.1, 0.2]"}
            for i in by_text if i % 100 != 99), size)  # fmt: skip
    if windows:
        found |= batches(f"{root}/activations", (
            {"id": f"a-{i}-{w}", **owner, "index": str(i), "tokens": ["▁some", "▁word", f"▁w{i}x{w}"],
             "values": [0.0, round(1.0 + w, 2), round(0.5 + i % 5, 2)], "maxValue": 1.0 + w, "binMin": 0.0}
            for i in range(n) for w in range(windows)), size * windows)  # fmt: skip
    for name, row in (
        ("model", {"id": model}), ("source", {"id": layer, "modelId": model}),
        ("sourceset", {"name": layer.partition("-")[2], "modelId": model}), ("release", {"name": "made"}),
    ):  # fmt: skip
        found[f"{root}/{name}.jsonl"] = (json.dumps(row) + "\n").encode()
    return found


def folder_objects(folder: Path, prefix: str = "") -> dict[str, bytes]:
    """Files below a folder, as objects."""
    return {
        prefix + path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }

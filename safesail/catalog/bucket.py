"""Listing a public bucket by S3's XML, page after page. Knows nothing of what lies in it."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Generator
from urllib.parse import urlencode

import httpx2

from safesail.catalog.mirror import Offered, is_plain_path
from safesail.catalog.transfer import Remote, receive
from safesail.errors import DataError

MAX_PAGE_BYTES = 8 * 2**20
"""A page of 1,000 objects has about 400,000 bytes."""

MAX_PAGES = 200
MAX_OBJECT_BYTES = 16 * 2**30


async def list_bucket(client: httpx2.AsyncClient, bucket: Remote, prefix: str) -> list[Offered]:
    """Everything in `bucket` whose name begins with `prefix`; paths are without it.

    Raises:
        DataError: no sound listing: a server that lies, or is none of this kind.
        InterruptedDownloadError: the connection broke, or is too slow.
    """
    objects: dict[str, Offered] = {}
    token: str | None = None
    for _ in range(MAX_PAGES):
        query = {"list-type": "2", "prefix": prefix, **({"continuation-token": token} if token else {})}
        page = bytearray()
        await receive(client, bucket.file(f"?{urlencode(query)}"), page.extend, MAX_PAGE_BYTES)
        root = _parse(bytes(page), bucket.address)
        before = len(objects)
        for wanted in _objects(root, bucket, prefix):
            objects.setdefault(wanted.path, wanted)
        if (_text(root, "IsTruncated") or "false").lower() != "true":
            return list(objects.values())
        token = _text(root, "NextContinuationToken")
        if token is None or len(objects) == before:
            raise DataError(f"{bucket.address} lists the same page again and again; it is not sound")
    raise DataError(
        f"{bucket.address} lists more than {MAX_PAGES:,} pages below {prefix!r}; that is no source"
    )


def _parse(page: bytes, where: str) -> ET.Element:
    # Definitions of entities are the way to a bomb; no listing has any.
    if b"<!" in page:
        raise DataError(f"{where} does not answer with a bucket's listing")
    try:
        root = ET.fromstring(page)
    except ET.ParseError as error:
        raise DataError(f"{where} does not answer with a bucket's listing ({error})") from error
    if _name(root) != "ListBucketResult":
        raise DataError(f"{where} does not answer with a bucket's listing, but with {_name(root)[:40]!r}")
    return root


def _objects(root: ET.Element, bucket: Remote, prefix: str) -> Generator[Offered, None, None]:
    for entry in root:
        if _name(entry) != "Contents":
            continue
        key, size, etag = (_text(entry, name) for name in ("Key", "Size", "ETag"))
        path = (key or "").removeprefix(prefix)
        if key is None or not key.startswith(prefix) or not is_plain_path(path):
            continue  # folders' own entries, and names that could lead elsewhere
        if size is None or not re.fullmatch(r"\d{1,15}", size) or int(size) > MAX_OBJECT_BYTES:
            raise DataError(f"{bucket.address} lists {path[:80]!r} with the size {size!r}")
        yield Offered(path, bucket.file(key), int(size), etag)


def _name(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _text(parent: ET.Element, name: str) -> str | None:
    return next((child.text for child in parent if _name(child) == name and child.text), None)

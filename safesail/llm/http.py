"""The HTTP client under the `openai` package: no redirects, and replies of bounded size."""

import zlib
from collections.abc import AsyncIterator

import httpx2
import openai

from safesail.errors import UnparsableAnswerError

MAX_BODY = 4 * 2**20
"""Bytes of a reply, unpacked."""


def make_http_client() -> httpx2.AsyncClient:
    """A client that goes where it is sent and nowhere else, and takes no more than `MAX_BODY` of any reply.

    A larger one raises `UnparsableAnswerError`.
    """
    return openai.DefaultAsyncHttpxClient(follow_redirects=False, event_hooks={"response": [_bound]})


class _Bounded(httpx2.AsyncByteStream):
    """A reply's bytes, unpacked piece by piece: a small body may unpack to a thousand times its size."""

    def __init__(self, packed: httpx2.AsyncByteStream, encoding: str) -> None:
        self._packed = packed
        self._unpacker = None if encoding == "identity" else zlib.decompressobj(zlib.MAX_WBITS | 32)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MAX_BODY
        async for piece in self._packed:
            try:
                part = piece if self._unpacker is None else self._unpacker.decompress(piece, left + 1)
            except zlib.error:
                raise httpx2.DecodingError("not packed as it says") from None
            left -= len(part)
            if left < 0:
                raise UnparsableAnswerError(f"the endpoint's reply is larger than {MAX_BODY // 2**20} MiB")
            yield part

    async def aclose(self) -> None:
        await self._packed.aclose()


async def _bound(response: httpx2.Response) -> None:
    encoding = response.headers.pop("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip", "deflate"):
        raise httpx2.DecodingError("packed in a way that was not asked for")
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    response.stream = _Bounded(response.stream, encoding)

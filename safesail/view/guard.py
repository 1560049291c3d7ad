"""Who may read: only pages of this server in a browser of this machine. Pure ASGI, round everything else."""

from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from safesail.view.render import policy

HEADERS = {
    "content-security-policy": policy(exported=False),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}


def own_hosts(port: int) -> frozenset[str]:
    """Names by which a browser of this machine may call the server."""
    return frozenset(f"{name}:{port}" for name in ("127.0.0.1", "localhost"))


def refusal(method: str, headers: Mapping[str, str], hosts: frozenset[str]) -> tuple[int, str] | None:
    """Status and reason where a request is not answered.

    A foreign name in `Host` is DNS rebinding: a site that had its own name point here. A script, picture or frame of
    another site is told by the browser in `Sec-Fetch-Site`; a link that a person follows from there may pass.
    """
    if headers.get("host", "").lower() not in hosts:
        return 421, "this server answers to 127.0.0.1 and localhost only"
    if method not in ("GET", "HEAD"):
        return 405, "this server is read only"
    origin = headers.get("origin")
    if origin is not None and origin.lower() not in {f"http://{host}" for host in hosts}:
        return 403, "other sites may not read this server"
    followed = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not followed:
        return 403, "other sites may not read this server"
    return None


class Guard:
    """Refuses what does not come from here, and says on every answer what a page may load."""

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refused = refusal(scope["method"], Headers(scope=scope), self._hosts)
        if refused is not None:
            status, reason = refused
            await PlainTextResponse(reason, status)(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)

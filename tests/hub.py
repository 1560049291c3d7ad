"""As much of the Hugging Face hub as a push and a download ask for, on loopback; it keeps what it was told."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Hub:
    """Data sets by name, and every request that carried a token."""

    token: str
    address: str = ""
    private: dict[str, bool] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and Authorization."""


@contextmanager
def hub(token: str) -> Generator[Hub, None, None]:
    """A running hub."""
    state = Hub(token)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            state.asked.append((self.command, path, self.headers.get("Authorization")))
            status, reply = respond(state, self.command, path, body, self.headers.get("Authorization"))
            content = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Type", "application/json")
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_HEAD = answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


def respond(state: Hub, method: str, path: str, body: bytes, authorization: str | None) -> tuple[int, Any]:
    """Status and reply."""
    known = authorization == f"Bearer {state.token}"
    if blob := re.fullmatch(r"/blobs/([0-9a-f]{64})", path):
        assert method == "PUT" and hashlib.sha256(body).hexdigest() == blob[1]
        state.blobs[blob[1]] = body
        return 200, {}
    if found := re.fullmatch(r"/datasets/([\w.-]+/[\w.-]+)/resolve/main/(.+)", path):
        repo, name = found.groups()
        if name not in state.files.get(repo, {}) or (state.private[repo] and not known):
            return 404, {}
        return 200, state.files[repo][name]
    if not known:
        return 401, {"error": "no"}
    if path == "/api/repos/create":
        return create(state, json.loads(body))
    if path == "/api/validate-yaml":
        return 200, {"errors": [], "warnings": []}
    if found := re.fullmatch(r"/datasets/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", path):
        objects = [
            {**o, "actions": {"upload": {"href": f"{state.address}/blobs/{o['oid']}", "header": {}}}}
            for o in json.loads(body)["objects"]
        ]
        return 200, {"transfer": "basic", "objects": objects}
    named = re.fullmatch(r"/api/datasets/([\w.-]+/[\w.-]+?)(?:/(revision|tree|preupload|commit)/main)?", path)
    assert named is not None, f"the hub is asked for {method} {path}"
    return about(state, named[1], named[2], body)


def create(state: Hub, asked: dict[str, Any]) -> tuple[int, Any]:
    repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
    assert asked["type"] == "dataset"
    if repo in state.files:
        return 409, {
            "error": "You already created this dataset repo",
            "url": f"{state.address}/datasets/{repo}",
        }
    state.files[repo] = {".gitattributes": b""}
    state.private[repo] = bool(asked.get("private", asked.get("visibility") == "private"))
    return 200, {"url": f"{state.address}/datasets/{repo}", "name": repo, "id": repo}


def about(state: Hub, repo: str, what: str | None, body: bytes) -> tuple[int, Any]:
    if repo not in state.files:
        return 404, {"error": "none"}
    held = state.files[repo]
    if what in (None, "revision"):
        siblings = [{"rfilename": name} for name in held]
        return 200, {"id": repo, "private": state.private[repo], "sha": "0" * 40, "siblings": siblings}
    if what == "tree":
        return 200, [{"type": "file", "path": n, "size": len(c), "oid": "0" * 40} for n, c in held.items()]
    if what == "preupload":
        return 200, {"files": [
            {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(("parquet", "tensors")) else "regular",
             "shouldIgnore": False} for f in json.loads(body)["files"]]}  # fmt: skip
    commit(state, held, body)
    url = f"{state.address}/datasets/{repo}/commit/{'1' * 40}"
    return 200, {"success": True, "commitOid": "1" * 40, "commitUrl": url, "hookOutput": ""}


def commit(state: Hub, held: dict[str, bytes], body: bytes) -> None:
    for line in body.decode().splitlines():
        entry = json.loads(line)
        value = entry["value"]
        if entry["key"] == "file":
            held[value["path"]] = base64.b64decode(value["content"])
        elif entry["key"] == "lfsFile":
            held[value["path"]] = state.blobs[value["oid"]]
        elif entry["key"] == "deletedFile":
            del held[value["path"]]

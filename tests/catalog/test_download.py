"""Downloads over a real loopback server."""

import gzip
import io
import json
import re
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from safesail.catalog.config import ReleaseOptions
from safesail.catalog.download import download
from safesail.catalog.format import MAX_MANIFEST_BYTES
from safesail.catalog.release import build_release
from safesail.catalog.source import open_source
from safesail.catalog.transfer import InterruptedDownloadError, Patience
from safesail.catalog.verify import verify_release
from safesail.errors import ChecksumError, ConfigError, DataError, NotFoundError


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


class Files:
    """A folder behind a server that knows Range, counts what it sent, and can break off."""

    def __init__(self, server: HTTPServer, folder: Path, prefix: str = "/r/") -> None:
        self.folder, self.prefix = folder, prefix
        self.ranges: list[tuple[str, str]] = []
        self.break_off: dict[str, int] = {}
        self.know_range = True
        server.expect_request(re.compile(f"^{re.escape(prefix)}")).respond_with_handler(self.answer)

    def answer(self, request: Request) -> Response:
        name = request.path.removeprefix(self.prefix)
        if not (self.folder / name).is_file():
            return Response("none", 404)
        content = (self.folder / name).read_bytes()
        asked = request.headers.get("Range", "")
        self.ranges.append((name, asked))
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.know_range else 0
        body, status = content[start:], 206 if start else 200
        if name in self.break_off:
            short = body[: self.break_off.pop(name)]
            return Response(
                io.BytesIO(short), status, headers={"Content-Length": str(len(body))}, direct_passthrough=True
            )
        return Response(body, status)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "got").mkdir()
    return tmp_path / "got" / "release"


def test_from_a_path_and_a_zip(release: Path, store: Path, out: Path, tmp_path: Path) -> None:
    assert download(str(release), out, quiet=True) == out
    assert (out / "manifest.json").read_bytes() == (release / "manifest.json").read_bytes()
    download(str(release), out, quiet=True)  # the same again is no fault
    build_release(store, tmp_path / "r.zip", ReleaseOptions(name="toy"))
    download(str(tmp_path / "r.zip"), out, quiet=True)
    build_release(store, tmp_path / "other", ReleaseOptions(name="other"))
    with pytest.raises(ConfigError, match="something else is at"):
        download(str(tmp_path / "other"), out, quiet=True)
    assert names(out.parent) == {"release"}


def test_from_an_address_as_folder_and_zip(
    release: Path, store: Path, out: Path, tmp_path: Path, httpserver: HTTPServer
) -> None:
    build_release(store, release.parent / "served" / "r.zip", ReleaseOptions(name="toy"))
    Files(httpserver, release)
    Files(httpserver, release.parent / "served", "/z/")
    for number, path in enumerate(("/r/", "/r", "/r/manifest.json", "/z/r.zip")):
        verify_release(download(httpserver.url_for(path), out.parent / str(number), quiet=True))
    assert names(out.parent) == {"0", "1", "2", "3"}


def test_from_the_hub_at_a_revision(
    release: Path, out: Path, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    Files(httpserver, release, "/datasets/org/name/resolve/v1.0/")
    monkeypatch.setenv("HF_ENDPOINT", httpserver.url_for("/").rstrip("/"))
    verify_release(download("hf:org/name@v1.0", out, quiet=True))
    Files(httpserver, out.parent, "/datasets/org/name/resolve/main/")
    with pytest.raises(NotFoundError, match="not there, or not public"):
        download("hf:org/name", out.parent / "main", quiet=True)
    assert names(out.parent) == {"release"}


@pytest.mark.parametrize("know_range", [True, False])
def test_a_broken_download_goes_on_where_it_stopped(
    know_range: bool, release: Path, out: Path, httpserver: HTTPServer
) -> None:
    files = Files(httpserver, release)
    files.know_range = know_range
    files.break_off = {"scores.parquet": 100}
    with pytest.raises(InterruptedDownloadError, match="try again to go on"):
        download(httpserver.url_for("/r/"), out, quiet=True)
    assert not out.exists(), "nothing is seen before it is whole"
    files.ranges.clear()
    verify_release(download(httpserver.url_for("/r/"), out, quiet=True))
    asked = dict(files.ranges)
    assert asked["scores.parquet"] == "bytes=100-"
    assert "explanations.parquet" not in asked, "what is whole is not fetched again"
    assert names(out.parent) == {"release"}


def test_a_leftover_of_another_release_is_thrown_away(
    release: Path, out: Path, httpserver: HTTPServer
) -> None:
    Files(httpserver, release)
    partial = out.parent / ".release.partial"
    partial.mkdir()
    (partial / "scores.parquet").write_bytes(b"x" * 50)
    verify_release(download(httpserver.url_for("/r/"), out, quiet=True))


def spoil(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return apply


def claim_version(content: bytes) -> bytes:
    return json.dumps({**json.loads(content), "format_version": 9}).encode()


SPOILT: dict[str, tuple[Callable[[Path], None], type[DataError], str]] = {
    "changed": (
        spoil("tags.parquet", lambda c: bytes([c[0] ^ 1]) + c[1:]),
        ChecksumError,
        "damaged at its source",
    ),
    "longer": (spoil("tags.parquet", lambda c: c + b"x" * 10), DataError, "larger than the"),
    "shorter": (spoil("tags.parquet", lambda c: c[:-1]), ChecksumError, "damaged at its source"),
    "newer": (spoil("manifest.json", claim_version), DataError, "format 9"),
    "no JSON": (spoil("manifest.json", lambda _: b"<html>"), DataError, "not sound JSON"),
    "missing": (lambda folder: (folder / "tags.parquet").unlink(), DataError, "not there"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_what_is_refused_leaves_nothing(case: str, release: Path, out: Path, httpserver: HTTPServer) -> None:
    change, kind, message = SPOILT[case]
    change(release)
    Files(httpserver, release)
    with pytest.raises(kind, match=message):
        download(httpserver.url_for("/r/"), out, quiet=True)
    assert names(out.parent) == set()


def test_a_hostile_zip_from_an_address_leaves_nothing(
    release: Path, out: Path, tmp_path: Path, httpserver: HTTPServer
) -> None:
    served = tmp_path / "served"
    served.mkdir()
    with zipfile.ZipFile(served / "evil.zip", "w") as archive:
        for path in release.iterdir():
            archive.write(path, path.name)
        archive.writestr("../../escaped.txt", "x")
    Files(httpserver, served)
    with pytest.raises(DataError, match="plain file names"):
        download(httpserver.url_for("/r/evil.zip"), out, quiet=True)
    assert names(out.parent) == set()
    assert not list(tmp_path.rglob("escaped.txt"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("http://example.com/release.zip", "is not https"),
        ("ftp://example.com/release.zip", "is not https"),
        ("file:///etc/passwd", "is not https"),
        ("hf:just-a-name", "is not hf:"),
        ("hf:org/../../etc", "is not hf:"),
        ("hf:org/name@../../x", "is not hf:"),
    ],
)
def test_other_sources_are_refused_before_anything_is_asked(source: str, message: str, out: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        download(source, out, quiet=True)
    assert names(out.parent) == set()


def test_a_redirect_to_an_unsafe_address_is_not_followed(out: Path, httpserver: HTTPServer) -> None:
    httpserver.expect_request("/r/manifest.json").respond_with_data(
        status=302, headers={"Location": "http://example.com/manifest.json"}
    )
    with pytest.raises(ConfigError, match="is not https"):
        download(httpserver.url_for("/r/"), out, quiet=True)
    assert names(out.parent) == set()


def test_a_server_error_can_be_tried_again(out: Path, httpserver: HTTPServer) -> None:
    httpserver.expect_request("/r/manifest.json").respond_with_data(status=503)
    with pytest.raises(InterruptedDownloadError, match="answered 503"):
        download(httpserver.url_for("/r/"), out, quiet=True)


def test_nothing_there_and_links_are_refused(release: Path, out: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nothing at"):
        download(str(tmp_path / "nowhere"), out, quiet=True)
    (release / "tags.parquet").unlink()
    with pytest.raises(ChecksumError, match="is missing"):
        download(str(release), out, quiet=True)
    (release / "tags.parquet").symlink_to("/etc/passwd")
    with pytest.raises(DataError, match="is a link"):
        download(str(release), out, quiet=True)
    assert names(out.parent) == set()


SHORT = Patience(idle=5, start=0.5, bytes_per_second=1000)


def trickle(request: Request) -> Response:
    """A byte now and then, for ever."""

    def drops() -> Generator[bytes, None, None]:
        while True:
            time.sleep(0.05)
            yield b"x"

    return Response(drops(), headers={"Content-Length": "1000000"}, direct_passthrough=True)


@pytest.mark.parametrize("path", ["/r/", "/r/x.zip"])
def test_a_trickle_does_not_hang(path: str, out: Path, httpserver: HTTPServer) -> None:
    httpserver.expect_request(re.compile("^/r/")).respond_with_handler(trickle)
    with pytest.raises(InterruptedDownloadError, match="is too slow: under 1,000 bytes per second"):
        download(httpserver.url_for(path), out, quiet=True, patience=SHORT)


def test_silence_does_not_hang(out: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and never answers
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/r/"
        with pytest.raises(InterruptedDownloadError, match="ReadTimeout; try again"):
            download(address, out, quiet=True, patience=Patience(idle=0.3, start=60))
        with pytest.raises(InterruptedDownloadError, match="too slow"):
            download(address, out, quiet=True, patience=Patience(idle=60, start=0.3))


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_a_huge_manifest_is_cut_off(encoding: str, out: Path, httpserver: HTTPServer) -> None:
    zeros = b"0" * (MAX_MANIFEST_BYTES + 1)
    content = zeros if encoding == "identity" else gzip.compress(zeros)
    httpserver.expect_request("/r/manifest.json").respond_with_data(
        content, headers={"Content-Encoding": encoding}
    )
    with pytest.raises(DataError, match="is larger than the" if encoding == "identity" else "not UTF-8"):
        download(httpserver.url_for("/r/"), out, quiet=True)
    assert names(out.parent) == set()


def test_a_planted_link_is_not_written_through(
    release: Path, out: Path, tmp_path: Path, httpserver: HTTPServer
) -> None:
    Files(httpserver, release)
    precious = tmp_path / "precious"
    precious.write_text("untouched")
    partial = out.parent / ".release.partial"
    partial.mkdir()
    for name in ("manifest.json", "tags.parquet"):
        (partial / name).symlink_to(precious)
    verify_release(download(httpserver.url_for("/r/"), out, quiet=True))
    assert precious.read_text() == "untouched"
    assert names(out.parent) == {"release"}


def test_a_zip_that_came_whole_before_a_kill_is_not_asked_for_in_vain(
    store: Path, out: Path, tmp_path: Path, httpserver: HTTPServer
) -> None:
    build_release(store, tmp_path / "served" / "r.zip", ReleaseOptions(name="toy"))

    def answer(request: Request) -> Response:
        if "Range" in request.headers:
            return Response("", 416)
        return Response((tmp_path / "served" / "r.zip").read_bytes())

    httpserver.expect_request("/r.zip").respond_with_handler(answer)
    (out.parent / ".release.partial").mkdir()
    (out.parent / ".release.partial" / "release.zip").write_bytes(b"x" * 10)
    verify_release(download(httpserver.url_for("/r.zip"), out, quiet=True))


def test_the_hub_s_token_goes_to_the_hub_and_to_nobody_else(
    release: Path, out: Path, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A private data set whose files the hub hands on to another server, as it does with large ones."""
    seen: list[tuple[str, str | None]] = []
    with HTTPServer(host="localhost") as elsewhere:

        def hub(request: Request) -> Response:
            seen.append(("hub", request.headers.get("Authorization")))
            if request.headers.get("Authorization") != "Bearer hf_secret":
                return Response("", 401)
            return Response(
                "", 302, headers={"Location": elsewhere.url_for("/" + request.path.rsplit("/", 1)[1])}
            )

        def storage(request: Request) -> Response:
            seen.append(("elsewhere", request.headers.get("Authorization")))
            return Response((release / request.path[1:]).read_bytes())

        httpserver.expect_request(re.compile("/datasets/org/private/resolve/main/")).respond_with_handler(hub)
        elsewhere.expect_request(re.compile("/")).respond_with_handler(storage)
        monkeypatch.setenv("HF_ENDPOINT", httpserver.url_for("/").rstrip("/"))
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        verify_release(download("hf:org/private", out, quiet=True))
        monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(NotFoundError, match="set HF_TOKEN"):
            download("hf:org/private", out.parent / "again", quiet=True)
    assert {who for who in seen if who[0] == "elsewhere"} == {("elsewhere", None)}
    assert ("hub", "Bearer hf_secret") in seen


def test_the_same_release_that_was_damaged_is_mended(release: Path, out: Path) -> None:
    download(str(release), out, quiet=True)
    (out / "tags.parquet").write_bytes(b"damaged")
    verify_release(download(str(release), out, quiet=True))
    assert names(out.parent) == {"release"}


def test_nothing_is_lost_where_a_kill_had_put_a_release_aside(release: Path, out: Path) -> None:
    download(str(release), out, quiet=True)
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    out.rename(out.with_name(f".release.{int(gone.stdout)}-.old"))
    with open_source(out) as db:
        assert db.sql("SELECT count(*) FROM catalog").fetchall() == [(5,)]

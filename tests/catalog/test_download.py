"""Downloads over a real loopback server."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from safesail.catalog.config import ReleaseOptions
from safesail.catalog.download import InterruptedDownloadError, download
from safesail.catalog.release import build_release
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
        import re

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

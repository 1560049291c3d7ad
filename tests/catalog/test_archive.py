"""Zips from strangers."""

import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from safesail.catalog.archive import unpack
from safesail.catalog.config import ReleaseOptions
from safesail.catalog.release import build_release
from safesail.catalog.verify import verify_release
from safesail.errors import DataError, SafeSailError

Entry = tuple[zipfile.ZipInfo | str, bytes]


def files_of(release: Path) -> list[Entry]:
    return [(path.name, path.read_bytes()) for path in sorted(release.iterdir())]


def pack(path: Path, entries: list[Entry], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def link(name: str, target: str) -> Entry:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info, target.encode()


def bomb(entries: list[Entry]) -> list[Entry]:
    """A table of zeros that the manifest says is as large as it claims."""
    zeros = b"\0" * 50_000_000
    changed: list[Entry] = []
    for name, content in entries:
        if name == "manifest.json":
            manifest = json.loads(content)
            manifest["files"]["tags.parquet"]["bytes"] = len(zeros)
            content = json.dumps(manifest).encode()
        changed.append((name, zeros if name == "tags.parquet" else content))
    return changed


HOSTILE: dict[str, tuple[Callable[[list[Entry]], list[Entry]], str]] = {
    "path upwards": (lambda e: [*e, ("../evil.txt", b"x")], "plain file names"),
    "absolute path": (lambda e: [*e, ("/tmp/evil.txt", b"x")], "plain file names"),
    "Windows path": (lambda e: [*e, ("C:evil.txt", b"x")], "plain file names"),
    "backslash": (lambda e: [*e, ("..\\evil.txt", b"x")], "plain file names"),
    "a folder": (lambda e: [*e, ("folder/", b"")], "plain file names"),
    "a link": (lambda e: [*e, link("passwd", "/etc/passwd")], "link or device"),
    "a link for a table": (
        lambda e: [x for x in e if x[0] != "tags.parquet"] + [link("tags.parquet", "/etc/passwd")], "link or device"),
    "more than listed": (lambda e: [*e, ("extra.txt", b"x")], "do not agree about 'extra.txt'"),
    "less than listed": (lambda e: [x for x in e if x[0] != "tags.parquet"], "do not agree about 'tags.parquet'"),
    "other size": (lambda e: [(n, c + b"x" if n == "tags.parquet" else c) for n, c in e], "the manifest says"),
    "a bomb": (bomb, "would grow more than 100-fold"),
    "no manifest": (lambda e: [x for x in e if x[0] != "manifest.json"], "no catalog release"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_zip_is_refused_and_leaves_nothing(case: str, release: Path, tmp_path: Path) -> None:
    change, message = HOSTILE[case]
    path = pack(tmp_path / "hostile.zip", change(files_of(release)), zipfile.ZIP_DEFLATED)
    target = tmp_path / "target"
    target.mkdir()
    before = {p for p in tmp_path.rglob("*") if target not in p.parents}
    with pytest.raises(DataError, match=message):
        unpack(path, target)
    assert {p for p in tmp_path.rglob("*") if target not in p.parents} == before
    assert not list(target.iterdir())
    with pytest.raises(DataError, match=message):
        verify_release(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_refused(release: Path, tmp_path: Path) -> None:
    entries = files_of(release)
    with pytest.raises(DataError, match="twice"):
        verify_release(pack(tmp_path / "twice.zip", [*entries, entries[0]]))


def test_a_header_that_lies_about_the_size_is_refused(release: Path, tmp_path: Path) -> None:
    path = pack(tmp_path / "liar.zip", files_of(release))
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02")  # the first entry of the central directory: its sizes at 20 and 24
    content[start + 24 : start + 28] = (1).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(DataError):
        verify_release(path)


def test_encrypted_truncated_and_false_zips_are_refused(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.zip"
    build_release(store, path, ReleaseOptions(name="toy"))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="not a sound zip"):
        verify_release(path)
    path.write_text("not a zip at all")
    with pytest.raises(DataError, match="not a sound zip"):
        verify_release(path)
    changed = bytearray(content)
    start = changed.index(b"PK\x01\x02")
    changed[start + 8] |= 1  # the flag for encryption
    path.write_bytes(changed)
    with pytest.raises(SafeSailError, match="encrypted"):
        verify_release(path)

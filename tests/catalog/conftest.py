"""A small catalog of which every number is known."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from safesail.catalog.config import ReleaseOptions
from safesail.catalog.release import build_release
from safesail.store.connection import open_writer
from tests.catalog.toy import fill


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Search indexes are kept away from the user's cache."""
    monkeypatch.setenv("SAFESAIL_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The small catalog, in a store."""
    path = tmp_path / "toy.duckdb"
    with open_writer(path) as db:
        fill(db)
    return path


@pytest.fixture
def release(store: Path, tmp_path: Path) -> Path:
    """The small catalog, released."""
    out = tmp_path / "release"
    build_release(store, out, ReleaseOptions(name="toy"))
    return out


@pytest.fixture
def edit_manifest(release: Path) -> Callable[..., None]:
    """Change the manifest of `release`: a function of its parsed content."""

    def edit(change: Callable[[dict[str, object]], None]) -> None:
        path = release / "manifest.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return edit

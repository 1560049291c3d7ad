"""Where Safe-SAIL's own files and the user's cache lie."""

from pathlib import Path

import pytest

from safesail.errors import NotFoundError
from safesail.resources import cache_dir, expand, resource_dir


@pytest.mark.parametrize("name", ["data", "prompts", "pipelines"])
def test_own_folders_are_there_and_hold_something(name: str) -> None:
    assert any(resource_dir(name).iterdir())


def test_an_unknown_folder_is_an_incomplete_installation() -> None:
    with pytest.raises(NotFoundError, match="'nothing_here' is missing; install the package again"):
        resource_dir("nothing_here")


def test_expand() -> None:
    assert expand("some/path") == "some/path"
    assert Path(expand("bundled:data/texts")) == resource_dir("data") / "texts"
    assert Path(expand("bundled:prompts")) == resource_dir("prompts")
    with pytest.raises(NotFoundError, match="'nothing_here'"):
        expand("bundled:nothing_here/x")


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAFESAIL_CACHE", str(tmp_path / "c"))
    assert cache_dir() == tmp_path / "c"
    assert not (tmp_path / "c").exists()
    monkeypatch.setenv("SAFESAIL_CACHE", "")
    assert cache_dir().name == "safesail"

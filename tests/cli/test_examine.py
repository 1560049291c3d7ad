"""The doctor says what there is, and what to do about what is not."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from safesail.cli import examine as doctor
from safesail.cli.examine import Check, examine
from safesail.store.connection import open_writer
from safesail.subject.device import choose_device


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without a fetched model, an endpoint or a store; gives the store's path."""
    monkeypatch.setenv("SAFESAIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    return tmp_path / "store.duckdb"


def checks(store: Path) -> dict[str, Check]:
    return {check.what: check for check in examine(store)}


def test_a_bare_machine(bare: Path) -> None:
    found = checks(bare)
    assert all(found[name].ok for name in doctor.PACKAGES)
    assert found["torch"].found == torch.__version__.partition("+")[0] or "+" in found["torch"].found
    assert found["device"].found.startswith(choose_device("auto"))
    assert found["own files"].found == "data, prompts, pipelines"
    assert not found["smollm2"].ok
    assert "safesail fetch smollm2" in found["smollm2"].found
    assert "no OPENAI_API_KEY" in found["endpoint"].found
    assert found["store"] == Check("store", True, f"no {bare} yet")
    assert not bare.exists()


def test_a_key_is_never_shown(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:1/v1")
    found = checks(bare)
    assert found["endpoint"].found == "http://localhost:1/v1 (a key is set)"
    assert not any("very-secret" in check.found for check in found.values())


def test_a_store_is_opened_and_measured(bare: Path) -> None:
    with open_writer(bare):
        pass
    check = checks(bare)["store"]
    assert check.ok
    assert check.found.endswith(" MB")


@pytest.mark.parametrize("kind", ["text", "folder"])
def test_what_is_no_store_is_a_failed_check(bare: Path, kind: str) -> None:
    if kind == "text":
        bare.write_text("not a database", encoding="utf-8")
    else:
        bare.mkdir()
    check = checks(bare)["store"]
    assert not check.ok
    assert str(bare) in check.found


def test_missing_package_and_full_disk(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nearly_full(_: Path) -> SimpleNamespace:
        return SimpleNamespace(free=10**9)

    monkeypatch.setattr(doctor, "PACKAGES", ("a-package-that-is-not-there",))
    monkeypatch.setattr("shutil.disk_usage", nearly_full)
    found = checks(bare)
    assert found["a-package-that-is-not-there"] == Check(
        "a-package-that-is-not-there", False, "not installed; pip install a-package-that-is-not-there"
    )
    assert found["disk"] == Check("disk", False, "1.0 GB free in the working folder")


def test_devices() -> None:
    assert choose_device("cuda:1") == "cuda:1"
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert choose_device("auto") == expected

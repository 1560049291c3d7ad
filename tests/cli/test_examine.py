"""The doctor says what there is, and what to do about what is not."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytest_httpserver import HTTPServer

from safesail.cli import examine as doctor
from safesail.cli.examine import Check, examine
from safesail.errors import ConfigError
from safesail.store.connection import open_writer
from safesail.subject.loading import choose_device


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
    assert found["torch"].detail == torch.__version__.partition("+")[0] or "+" in found["torch"].detail
    assert found["device"].detail.startswith(choose_device("auto"))
    assert found["own files"].detail == "data, prompts, pipelines"
    assert not found["smollm2"].ok
    assert "safesail fetch smollm2" in found["smollm2"].detail
    assert "no OPENAI_API_KEY" in found["endpoint"].detail
    assert found["store"] == Check("store", True, f"no {bare} yet")
    assert not bare.exists()


def test_a_key_is_never_shown(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:1/v1")
    found = checks(bare)
    assert found["endpoint"].detail.startswith("http://localhost:1/v1 (a key is set), not reached: ")
    assert not found["endpoint"].ok
    assert not any("very-secret" in check.detail for check in found.values())


@pytest.mark.parametrize(
    "url",
    [
        "http://me:hunter2@localhost:1/v1",
        "http://me:hunter2%40x@localhost:1/v1",
        "http://me%40x:hunter2@[::1/v1",
        "http://localhost:1/v1?key=hunter2",
        "hunter2",
    ],
)
def test_a_password_in_the_endpoints_address_is_never_shown(
    bare: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    endpoint = checks(bare)["endpoint"]
    assert not endpoint.ok
    assert endpoint.detail.startswith("OPENAI_BASE_URL: the endpoint's address must")
    assert "hunter2" not in endpoint.detail


@pytest.mark.parametrize("url", ["http://local%40host:1/v1", "http://[::1/v1", "http://localhost:port/v1"])
def test_an_address_that_is_none_is_not_reached(
    bare: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    endpoint = checks(bare)["endpoint"]
    assert not endpoint.ok
    assert "\n" not in endpoint.detail


def test_an_endpoint_that_answers_is_reached_and_shown_no_key(
    bare: Path, monkeypatch: pytest.MonkeyPatch, httpserver: HTTPServer
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    monkeypatch.setenv("OPENAI_BASE_URL", httpserver.url_for("/v1"))
    httpserver.expect_oneshot_request("/v1/models").respond_with_data("", status=401)
    httpserver.expect_oneshot_request("/v1/models").respond_with_data(
        "", status=302, headers={"Location": "http://localhost:1/elsewhere"}
    )
    for status in (401, 302):
        endpoint = checks(bare)["endpoint"]
        assert endpoint.ok
        assert endpoint.detail.endswith(f"(a key is set), reached (HTTP {status})")
    assert not any("Authorization" in request.headers for request, _ in httpserver.log)


def test_a_store_is_opened_and_measured(bare: Path) -> None:
    with open_writer(bare):
        pass
    check = checks(bare)["store"]
    assert check.ok
    assert check.detail.endswith(" MB")


@pytest.mark.parametrize("kind", ["text", "folder"])
def test_what_is_no_store_is_a_failed_check(bare: Path, kind: str) -> None:
    if kind == "text":
        bare.write_text("not a database", encoding="utf-8")
    else:
        bare.mkdir()
    check = checks(bare)["store"]
    assert not check.ok
    assert str(bare) in check.detail


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
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")  # MPS lacks float64
    with pytest.raises(
        ConfigError, match="torch cannot use device 'cuda:99' on this machine; use auto, cpu, or"
    ):
        choose_device("cuda:99")

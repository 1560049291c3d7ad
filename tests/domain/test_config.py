"""Settings: every fault is named at once, in one line, with where it is."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from safesail.domain.config import Config, load_yaml
from safesail.errors import ConfigError


class Inner(Config):
    depth: int


class Settings(Config):
    k: int
    rate: float = 0.5
    inner: Inner = Inner(depth=1)


def test_good_settings_are_read_with_their_defaults(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("k: 3\ninner: {depth: 2}\n", encoding="utf-8")
    assert Settings.from_yaml(file) == Settings(k=3, rate=0.5, inner=Inner(depth=2))


def test_every_fault_is_named_in_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.read({"rate": "fast", "inner": {"depth": "deep"}, "kk": 1}, "run.yaml")
    message = str(caught.value)
    assert message.startswith("run.yaml: ")
    assert "\n" not in message
    for fault in ("k: Field required", "rate: ", "inner: depth: ", "kk: Extra inputs are not permitted"):
        assert fault in message
    assert message.count("; ") == 3


def test_a_key_that_is_no_string_is_a_fault() -> None:
    with pytest.raises(ConfigError, match=r"^x\.yaml: .*1"):
        Settings.read({"k": 1, 1: 2}, "x.yaml")  # pyright: ignore[reportArgumentType]


def test_settings_are_frozen() -> None:
    settings = Settings(k=1)
    with pytest.raises(ValidationError, match="frozen"):
        settings.k = 2  # pyright: ignore[reportAttributeAccessIssue]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file at .*nowhere\.yaml"):
        Settings.from_yaml(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("content", [b"a: [1, 2", b"a: \xff\xfe", b"a: 2024-13-45"])
def test_not_yaml_is_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="is not YAML") as caught:
        load_yaml(file)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(("content", "kind"), [("- 1\n- 2\n", "list"), ("", "NoneType"), ("word", "str")])
def test_yaml_that_is_no_mapping(tmp_path: Path, content: str, kind: str) -> None:
    file = tmp_path / "list.yaml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=f"must be a mapping of settings, not {kind}"):
        load_yaml(file)

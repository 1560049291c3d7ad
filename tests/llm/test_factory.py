"""From a model's name to a client."""

import pytest

from safesail.errors import ConfigError
from safesail.llm.builtin_prompts import ENDPOINT
from safesail.llm.factory import make_client
from safesail.llm.lexical import LexicalModel
from safesail.llm.openai_client import OpenAIClient


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def test_the_built_in_model_needs_no_key() -> None:
    client = make_client("lexical")
    assert isinstance(client, LexicalModel)
    assert client.endpoint == ENDPOINT


def test_openai_is_the_default_and_needs_a_key() -> None:
    with pytest.raises(ConfigError) as caught:
        make_client("gpt-4o-mini")
    message = str(caught.value)
    assert "https://api.openai.com/v1 needs a key" in message
    # Whoever has pairs written is not sent to the one model that cannot.
    assert "--base-url" in message
    assert "cannot write pairs" in message
    assert "OPENAI_API_KEY" in message
    assert "'lexical'" in message
    client = make_client("gpt-4o-mini", api_key="k" * 20)
    assert isinstance(client, OpenAIClient)
    assert client.endpoint == "https://api.openai.com/v1"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_servers_on_this_machine_need_no_key(host: str) -> None:
    assert make_client("llama", base_url=f"http://{host}:8080/v1/").endpoint == f"http://{host}:8080/v1"


def test_key_and_address_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "https://models.example/v1")
    with pytest.raises(ConfigError, match=r"https://models\.example/v1 needs a key"):
        make_client("llama")
    monkeypatch.setenv("OPENAI_API_KEY", "k" * 20)
    assert make_client("llama").endpoint == "https://models.example/v1"
    assert make_client("llama", base_url="http://localhost:1/v1").endpoint == "http://localhost:1/v1"


@pytest.mark.parametrize("address", ["https://me:secret99@host/v1", "https://secret99@host/v1"])
def test_an_address_with_credentials_is_refused_without_repeating_them(address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_client("llama", base_url=address, api_key="k" * 20)
    assert "secret99" not in str(caught.value)
    assert "OPENAI_API_KEY" in str(caught.value)


@pytest.mark.parametrize("address", ["https://me:secret99@host/v1"])
def test_nor_are_they_repeated_where_a_key_is_missing(address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_client("llama", base_url=address)
    assert "secret99" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "fault"),
    [
        ("host/v1", "must begin with http"),
        ("ftp://host/v1", "must begin with http"),
        ("https://", "must begin with http"),
        ("https://host/v1?key=secret99", "no credentials"),
        ("https://host/v1#secret99", "no credentials"),
    ],
)
def test_what_is_no_address_is_refused(address: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault) as caught:
        make_client("llama", base_url=address, api_key="k" * 20)
    assert "secret99" not in str(caught.value)


@pytest.mark.parametrize("address", ["http://localhost.example/v1", "http://127.0.0.1.example/v1"])
def test_a_name_that_begins_like_this_machine_is_another(address: str) -> None:
    with pytest.raises(ConfigError, match="needs a key"):
        make_client("llama", base_url=address)


@pytest.mark.parametrize("key", ["two words99", "accent\u00e9e99", "line\nend99"])
def test_a_key_that_no_header_can_carry_is_refused_without_repeating_it(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_client("llama", api_key=key)
    assert "99" not in str(caught.value)


def test_a_line_end_after_a_key_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k" * 20 + "\n")
    assert make_client("llama").endpoint == "https://api.openai.com/v1"

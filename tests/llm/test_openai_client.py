"""One attempt at a real HTTP endpoint: what is sent, what is understood, what is retried, what stops a run."""

import asyncio
import gzip
import json
import logging
import socket
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safesail.errors import ConfigError, LLMError, LLMUnavailableError, RefusedAnswerError, TransientLLMError
from safesail.llm import metered
from safesail.llm.budget import parse_budget
from safesail.llm.metered import MeteredClient
from safesail.llm.openai_client import OpenAIClient, _retry_after  # pyright: ignore[reportPrivateUsage]
from safesail.llm.types import CallContext, LLMAnswer, LLMRequest
from safesail.store.calls import CallTable, export_calls
from safesail.store.connection import open_writer
from tests.loopback import Reply, chat, fault, serving

KEY = "planted-key-0123456789"
SCHEMA = '{"type": "object"}'
USAGE = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
REQUEST = LLMRequest("m", "set below", "system", "question", 0.5, 20)


def attempts(
    replies: Sequence[Reply],
    request: LLMRequest = REQUEST,
    *,
    n: int = 1,
    model: str = "m",
    timeout: float = 5.0,
) -> tuple[list[LLMAnswer | LLMError], list[dict[str, Any]]]:
    """What `n` attempts in a row gave, and what the server saw; the last reply is repeated."""
    seen: list[dict[str, Any]] = []

    def script(sent: dict[str, Any]) -> Reply:
        seen.append(sent)
        return replies[min(len(seen), len(replies)) - 1]

    async def body(url: str) -> list[LLMAnswer | LLMError]:
        client = OpenAIClient(url, KEY, model, timeout=timeout)
        found: list[LLMAnswer | LLMError] = []
        for _ in range(n):
            try:
                found.append(await client.complete(replace(request, endpoint=url, model=model)))
            except LLMError as error:
                found.append(error)
        return found

    with serving(script) as url:
        return asyncio.run(body(url)), seen


def attempt(reply: Reply, request: LLMRequest = REQUEST, *, timeout: float = 5.0) -> LLMAnswer | LLMError:
    (found,), _ = attempts([reply], request, timeout=timeout)
    return found


def worst_case(request: LLMRequest = REQUEST) -> int:
    return OpenAIClient("http://localhost/v1", KEY, "m").worst_case(request)


# What is sent


def test_messages_and_settings_are_sent_as_asked() -> None:
    found, (sent,) = attempts([chat("yes", usage=USAGE)], replace(REQUEST, json_schema=SCHEMA))
    assert found == [LLMAnswer("yes", "stop", 11, 3, "billed")]
    assert sent == {
        "model": "m",
        "messages": [{"role": "system", "content": "system"}, {"role": "user", "content": "question"}],
        "max_tokens": 20,
        "temperature": 0.5,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
        },
    }


def test_what_was_not_asked_for_is_not_sent() -> None:
    _, (sent,) = attempts([chat("yes", usage=USAGE)], replace(REQUEST, system="", temperature=None))
    assert sent == {"model": "m", "messages": [{"role": "user", "content": "question"}], "max_tokens": 20}


@pytest.mark.parametrize("model", ["o3-mini", "openai/gpt-5", "o1"])
def test_reasoning_models_take_no_temperature(model: str) -> None:
    _, (sent,) = attempts([chat("yes", usage=USAGE)], model=model)
    assert "temperature" not in sent
    assert "max_tokens" not in sent
    assert sent["max_completion_tokens"] == 20


@pytest.mark.parametrize(
    "refusal",
    [
        fault(
            400,
            "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
            param="max_tokens",
        ),
        fault(400, "Only the default value is supported.", "unsupported_value", param="temperature"),
    ],
)
def test_a_reasoning_model_that_we_did_not_know_is_asked_again_as_one(refusal: Reply) -> None:
    found, sent = attempts([refusal, chat("yes", usage=USAGE)], n=3)
    assert isinstance(found[0], TransientLLMError)
    assert (found[0].maybe_billed, found[0].retry_after) == (False, 0.0)
    assert found[1] == found[2] == LLMAnswer("yes", "stop", 11, 3, "billed")
    assert ["temperature" in s for s in sent] == [True, False, False]
    assert ["max_completion_tokens" in s for s in sent] == [False, True, True]


@pytest.mark.parametrize("status", [400, 422])
def test_without_structured_answers_the_text_is_asked_for(status: int) -> None:
    refusal = fault(status, "'response_format' of type json_schema is not supported")
    found, sent = attempts([refusal, chat("yes", usage=USAGE)], replace(REQUEST, json_schema=SCHEMA), n=3)
    assert isinstance(found[0], TransientLLMError)
    assert found[0].retry_after == 0.0
    assert ["response_format" in s for s in sent] == [True, False, False]


def test_a_server_that_repeats_the_request_in_its_error_changes_no_setting() -> None:
    echo = Reply(
        json.dumps({"detail": {"input": {"temperature": 0.5, "max_completion_tokens": 1}}}).encode(), 422
    )
    found, sent = attempts([echo], n=2)
    assert [type(f) for f in found] == [LLMUnavailableError] * 2
    assert sent[0] == sent[1]


# What comes back


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        (USAGE, (11, 3)),
        # Reasoning left out of the completion, and billed all the same.
        ({"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 50}, (11, 39)),
        ({"prompt_tokens": 11, "completion_tokens": 3}, (11, 3)),
        ({"prompt_tokens": 11, "completion_tokens": 0, "total_tokens": 11}, (11, 0)),
    ],
)
def test_usage_is_what_the_endpoint_bills(usage: dict[str, Any], counted: tuple[int, int]) -> None:
    found = attempt(chat("yes", usage=usage))
    assert isinstance(found, LLMAnswer)
    assert (found.input_tokens, found.output_tokens, found.usage_source) == (*counted, "billed")


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None},
        {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        {"prompt_tokens": 11, "completion_tokens": -1, "total_tokens": 10},
        {},
    ],
)
def test_where_usage_is_missing_or_impossible_the_worst_case_stands(usage: dict[str, Any] | None) -> None:
    found = attempt(chat("yes", usage=usage))
    assert isinstance(found, LLMAnswer)
    assert found.usage_source == "estimated"
    assert found.tokens == worst_case()
    assert found.output_tokens == 20


def test_the_worst_case_is_every_byte_that_may_be_billed() -> None:
    bare = worst_case(LLMRequest("m", "e", "", "", 0.0, 1))
    assert worst_case(LLMRequest("m", "e", "ab", "cde", 0.0, 100)) == bare + 5 + 99
    assert worst_case(LLMRequest("m", "e", "", "鬼", 0.0, 1)) == bare + 3
    assert worst_case(LLMRequest("m", "e", "", "", 0.0, 1, json_schema=SCHEMA)) == bare + len(SCHEMA)


def test_a_refusal_is_known_as_one() -> None:
    found = attempt(chat(None, usage=USAGE, message={"refusal": "I cannot"}))
    assert found == LLMAnswer("", "content_filter", 11, 3, "billed")


def test_a_missing_reason_to_stop_is_unknown() -> None:
    found = attempt(chat("yes", usage=USAGE, choices=[{"index": 0, "message": {"content": "yes"}}]))
    assert isinstance(found, LLMAnswer)
    assert found.finish == "unknown"


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b'{"choices": [{"mess'),
        Reply(b"<html>hello</html>", headers={"Content-Type": "text/html"}),
        Reply(b"\xff\xfe\xff"),
        Reply(b"not gzip", headers={"Content-Encoding": "gzip"}),
        Reply(b""),
        Reply(json.dumps({"error": {"message": "overloaded"}}).encode()),
        Reply(b"x" * 1000, send=0.5),
        Reply(b"", silent=True),
    ],
)
def test_a_reply_that_is_none_is_tried_again_and_may_have_been_billed(reply: Reply) -> None:
    found = attempt(reply)
    assert isinstance(found, TransientLLMError)
    assert found.maybe_billed


def test_a_compressed_reply_is_read() -> None:
    packed = Reply(gzip.compress(chat("yes", usage=USAGE).body), headers={"Content-Encoding": "gzip"})
    assert attempt(packed) == LLMAnswer("yes", "stop", 11, 3, "billed")


# What is tried again


@pytest.mark.parametrize(
    ("status", "billed"),
    [
        (408, False),
        (409, False),
        (429, False),
        (500, False),
        (503, False),
        (502, True),
        (504, True),
        (524, True),
    ],
)
def test_busy_and_broken_servers_are_tried_again(status: int, *, billed: bool) -> None:
    found = attempt(fault(status, "later"))
    assert isinstance(found, TransientLLMError)
    assert found.maybe_billed is billed
    assert found.retry_after is None


def test_retry_after_is_passed_on() -> None:
    found = attempt(fault(429, "later", Retry_After="7"))
    assert isinstance(found, TransientLLMError)
    assert found.retry_after == 7


def test_retry_after_as_a_date() -> None:
    assert _retry_after("Mon, 01 Jan 2001 00:00:00 GMT") == 0
    far = _retry_after("Fri, 01 Jan 2100 00:00:00 GMT")
    assert far is not None
    assert far > 1e9


@given(st.text(max_size=40) | st.floats().map(str) | st.integers().map(str))
def test_no_retry_after_breaks_us(text: str) -> None:
    found = _retry_after(text)
    assert found is None or found >= 0


def test_a_server_that_is_too_slow_may_have_billed() -> None:
    found = attempt(replace(chat("yes", usage=USAGE), seconds=0.5), timeout=0.05)
    assert isinstance(found, TransientLLMError)
    assert str(found) == "no answer in time"
    assert found.maybe_billed


def test_a_server_that_was_never_reached_has_not() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and not listening
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(TransientLLMError, match="the connection broke") as caught:
            asyncio.run(OpenAIClient(url, KEY, "m").complete(REQUEST))
    assert not caught.value.maybe_billed


# What is not


@pytest.mark.parametrize(
    "reply",
    [
        fault(401, "Incorrect API key", "invalid_api_key"),
        fault(402, "Payment required"),
        fault(403, "Country not supported"),
        fault(404, "The model `m` does not exist", "model_not_found"),
        fault(400, "Unknown parameter"),
        fault(418, "I am a teapot"),
        fault(429, "You exceeded your current quota, please check your plan", "insufficient_quota"),
        Reply(b"<html>not here</html>", 404, {"Content-Type": "text/html"}),
    ],
)
def test_what_trying_again_does_not_help_stops_the_run(reply: Reply) -> None:
    found = attempt(reply)
    assert isinstance(found, LLMUnavailableError)
    assert str(reply.status) in str(found)
    assert "\n" not in str(found)


@pytest.mark.parametrize(
    "reply",
    [
        fault(400, "The response was filtered by the content management policy", "content_filter"),
        fault(403, "requires moderation on OpenRouter, your input was flagged"),
        fault(400, "This model's maximum context length is 8192 tokens", "context_length_exceeded"),
        fault(413, "too large"),
    ],
)
def test_what_concerns_one_request_only_does_not(reply: Reply) -> None:
    assert isinstance(attempt(reply), RefusedAnswerError)


# Where the key goes


@pytest.mark.parametrize(
    "reply",
    [
        fault(401, f"Incorrect API key provided: {KEY}.", "invalid_api_key"),
        fault(400, f"bad header Bearer {KEY}"),
        fault(500, f"{KEY}{'x' * 200}"),
        fault(400, f"content policy {'x' * 120} {KEY}"),
        Reply(KEY.encode(), 403),
        Reply(KEY.encode()),
        chat(f"your key is {KEY}", usage=USAGE),
    ],
)
def test_a_key_that_the_server_repeats_is_in_no_error_no_log_and_no_store(
    reply: Reply, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metered, "FIRST_WAIT", 0.001)
    caplog.set_level(logging.DEBUG)
    written: list[str] = []
    with serving(lambda sent: reply) as url, open_writer(tmp_path / "s.duckdb") as db:

        async def body() -> None:
            client = MeteredClient(OpenAIClient(url, KEY, "m"), CallTable(db, "run"), parse_budget("500"))
            try:
                found = await client.ask(replace(REQUEST, endpoint=url), CallContext("explain", "hash"))
                written.append(repr(found))
            except LLMError as error:
                written.append("".join(traceback.format_exception(error)))

        asyncio.run(body())
        export_calls(db, tmp_path / "calls.jsonl")
        written.append(repr(db.execute("SELECT * FROM llm_calls").fetchall()))
    written.append(caplog.text)
    written.append((tmp_path / "calls.jsonl").read_text())
    assert written[1] != "[]"  # the call was made, and is in the ledger
    assert not [text for text in written if KEY in text or KEY[:12] in text]
    assert KEY.encode() not in (tmp_path / "s.duckdb").read_bytes()


def test_an_address_with_credentials_is_refused() -> None:
    with pytest.raises(ConfigError, match="must hold no credentials"):
        OpenAIClient("https://me:secret@host/v1", KEY, "m")

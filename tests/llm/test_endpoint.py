"""A real HTTP server on loopback: what is retried, what is paid, and that the key goes nowhere."""

import asyncio

import pytest
from pytest_httpserver import HTTPServer

from safesail.errors import BudgetExceededError, CacheMissError, LLMUnavailableError, TruncatedAnswerError
from safesail.llm.budget import parse_budget
from safesail.llm.metered import MeteredClient
from safesail.llm.openai_client import OpenAIClient
from safesail.llm.types import Answered, CallContext, LLMRequest
from safesail.store.calls import CallTable, total_tokens
from safesail.store.connection import Db
from safesail.store.sql import rows

KEY = "sk-planted-0123456789"
PATH = "/v1/chat/completions"


def reply(text: str = "yes", finish: str = "stop", tokens: tuple[int, int] = (11, 3)) -> dict[str, object]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)},
    }  # fmt: skip


def ask(
    db: Db, server: HTTPServer, prompt: str = "question", budget: str = "100k", *, replay: bool = False
) -> Answered:
    async def once() -> Answered:
        inner = OpenAIClient(server.url_for("/v1"), KEY, "m", timeout=5)
        client = MeteredClient(inner, CallTable(db, "run"), parse_budget(budget), replay=replay)
        request = LLMRequest("m", client.endpoint, "system", prompt, 0.0, 20)
        return await client.ask(request, CallContext("explain", "hash"))

    return asyncio.run(once())


def test_a_good_answer_is_paid_once(db: Db, httpserver: HTTPServer) -> None:
    httpserver.expect_request(PATH, headers={"Authorization": f"Bearer {KEY}"}).respond_with_json(reply())
    assert ask(db, httpserver).answer.text == "yes"
    assert ask(db, httpserver).cached
    assert len(httpserver.log) == 1
    assert total_tokens(db) == 14


def test_429_and_500_are_tried_again(db: Db, httpserver: HTTPServer) -> None:
    httpserver.expect_ordered_request(PATH).respond_with_data("slow", 429, headers={"Retry-After": "0"})
    httpserver.expect_ordered_request(PATH).respond_with_data("oops", 500, headers={"Retry-After": "0"})
    httpserver.expect_ordered_request(PATH).respond_with_json(reply())
    assert ask(db, httpserver).answer.text == "yes"
    assert rows(db, "SELECT status, error FROM llm_calls ORDER BY call_id") == [
        ("failed", "TransientLLMError"), ("failed", "TransientLLMError"), ("ok", None)
    ]  # fmt: skip
    assert total_tokens(db) == 14  # what the server refused was not billed


def test_a_refused_key_stops_at_once_and_is_named_nowhere(db: Db, httpserver: HTTPServer) -> None:
    wrong = {"error": {"message": f"Incorrect API key provided: {KEY}", "code": "invalid_api_key"}}
    httpserver.expect_request(PATH).respond_with_json(wrong, status=401)
    with pytest.raises(LLMUnavailableError) as caught:
        ask(db, httpserver)
    assert KEY not in str(caught.value)
    assert len(httpserver.log) == 1
    stored = rows(db, "SELECT * FROM llm_calls")
    assert KEY not in repr(stored)


def test_a_cut_answer_is_paid_and_not_reused(db: Db, httpserver: HTTPServer) -> None:
    httpserver.expect_request(PATH).respond_with_json(reply("ye", finish="length"))
    for _ in range(2):
        with pytest.raises(TruncatedAnswerError):
            ask(db, httpserver)
    assert len(httpserver.log) == 2
    assert total_tokens(db) == 28


def test_a_call_that_does_not_fit_is_not_sent(db: Db, httpserver: HTTPServer) -> None:
    with pytest.raises(BudgetExceededError, match="the next call may cost"):
        ask(db, httpserver, budget="50")
    assert httpserver.log == []
    assert rows(db, "SELECT * FROM llm_calls") == []


def test_replay_sends_nothing(db: Db, httpserver: HTTPServer) -> None:
    with pytest.raises(CacheMissError, match="replay: no cached answer of m"):
        ask(db, httpserver, replay=True)
    assert httpserver.log == []


def test_a_missing_usage_is_counted_at_its_worst_and_said(db: Db, httpserver: HTTPServer) -> None:
    body = reply()
    del body["usage"]
    httpserver.expect_request(PATH).respond_with_json(body)
    found = ask(db, httpserver).answer
    assert found.usage_source == "estimated"
    assert found.input_tokens >= len("systemquestion")

"""What an endpoint may answer, and what becomes of it: an answer, a failed item with its reason, another attempt."""

import asyncio
import gzip
import json
import resource
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from safesail.errors import (
    BudgetExceededError,
    DataError,
    LLMUnavailableError,
    TransientLLMError,
    UnparsableAnswerError,
)
from safesail.llm import metered
from safesail.llm.budget import parse_budget
from safesail.llm.metered import CallRecord, MeteredClient
from safesail.llm.openai_client import OpenAIClient
from safesail.llm.reply import read_reply
from safesail.llm.types import CallContext, LLMAnswer, LLMRequest
from safesail.prompting.parse import parse_explanation
from safesail.store.calls import CallTable, export_calls, import_calls, ledger_rows, total_tokens
from safesail.store.connection import Db
from safesail.store.sql import rows, value
from tests.client_fuzz import fuzz
from tests.loopback import Reply, chat, fault, serving

USAGE = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
REQUEST = LLMRequest("m", "set below", "system", "question", 0.5, 20)
CONTEXT = CallContext("explain", "hash")
LONG = "A question of some length. " * 40


def read(reply: Reply, request: LLMRequest = REQUEST) -> LLMAnswer:
    return read_reply(reply.body, request, worst_case=200)


def choice(message: object) -> Reply:
    return chat("", usage=USAGE, choices=[{"message": message}])


MALFORMED = {
    "no list of choices: an object": chat("", choices={"0": {}}),
    "no list of choices: missing": chat("", choices=None),
    "no list of choices: a list": chat("", choices=[]),
    "a choice that is no object: a text": chat("", choices=["yes"]),
    "a message that is no object: a text": choice("yes"),
    "a message that is no object: missing": choice(None),
    "content is no text: a list": choice({"content": ["yes"]}),
    "content is no text: a number": choice({"content": 7}),
    "content is no text: a truth value": choice({"content": True}),
    "half a character (U+D800) at offset 2": choice({"content": "a \ud800 b"}),
    "1,000,001 characters; at most 1,000,000": choice({"content": "x" * 1_000_001}),
    "nested too deeply": Reply(b"[" * 200_000),
    "too long a number": Reply(b'{"choices": ' + b"7" * 5_000 + b"}"),
    "no object: a list": Reply(b"[]"),
    "no object: missing": Reply(b"null"),
}


@pytest.mark.parametrize(("reason", "reply"), MALFORMED.items(), ids=MALFORMED)
def test_json_that_is_no_answer_is_a_failure_of_this_one_item_at_its_worst_case(
    reason: str, reply: Reply
) -> None:
    with pytest.raises(UnparsableAnswerError) as caught:
        read(reply)

    assert reason in str(caught.value)
    assert caught.value.tokens == 200


def test_what_is_no_json_or_an_error_is_asked_again() -> None:
    for body in (
        b"",
        b"<html>",
        b"\xff\xfe",
        b'{"choices": [{"mess',
        b'{"error": {"message": "overloaded"}}',
    ):
        with pytest.raises(TransientLLMError) as caught:
            read(Reply(body))
        assert caught.value.maybe_billed


def test_control_characters_are_taken_out_and_odd_reasons_to_stop_are_unknown() -> None:
    reply = chat("a\x1b]0;title\x07\r\nb\x9b2J", usage=USAGE, finish="\x1b[2J")

    assert read(reply) == LLMAnswer("a]0;title\nb2J", "unknown", 11, 3, "billed")


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 2**62, "completion_tokens": 3},
        {"prompt_tokens": 11, "completion_tokens": 10**30},
        {"prompt_tokens": -11, "completion_tokens": 3},
        {"prompt_tokens": "11", "completion_tokens": "3"},
        {"prompt_tokens": True, "completion_tokens": True},
        {"prompt_tokens": 11.0, "completion_tokens": 3.0},
        ["prompt_tokens"],
        "many",
    ],
)
def test_usage_that_cannot_be_is_the_worst_case(usage: Any) -> None:
    answer = read(chat("yes", usage=usage))

    assert (answer.input_tokens, answer.output_tokens, answer.usage_source) == (180, 20, "estimated")


def test_an_impossible_total_does_not_spoil_the_rest() -> None:
    assert read(chat("yes", usage=USAGE | {"total_tokens": 2**62})).tokens == 14


def test_fewer_tokens_than_the_bytes_must_take_are_booked_at_the_floor_and_marked() -> None:
    request = LLMRequest("m", "e", "", LONG, 0.0, 400)

    answer = read(chat("word " * 80, usage={"prompt_tokens": 1, "completion_tokens": 1}), request)
    honest = read(chat("yes", usage={"prompt_tokens": 240, "completion_tokens": 1}), request)

    assert (answer.input_tokens, answer.output_tokens, answer.usage_source) == (len(LONG) // 8, 50, "floor")
    assert (honest.input_tokens, honest.output_tokens, honest.usage_source) == (240, 1, "billed")


# The same through the whole client, on a real server


def asking(db: Db, url: str, budget: str = "unlimited", timeout: float = 5.0) -> MeteredClient:
    return MeteredClient(
        OpenAIClient(url, "none", "m", timeout=timeout), CallTable(db, "run"), parse_budget(budget)
    )


def test_a_run_goes_on_after_malformed_replies_and_each_is_a_row(db: Db) -> None:
    replies = iter([*MALFORMED.values(), chat("yes", usage=USAGE)])

    async def body(url: str) -> list[str]:
        client = asking(db, url)
        outcomes: list[str] = []
        for i in range(len(MALFORMED) + 1):
            try:
                outcomes.append((await client.ask(replace(REQUEST, prompt=str(i)), CONTEXT)).answer.text)
            except UnparsableAnswerError:
                outcomes.append("failed")
        return outcomes

    with serving(lambda sent: next(replies)) as url:
        outcomes = asyncio.run(body(url))

    assert outcomes == ["failed"] * len(MALFORMED) + ["yes"]
    assert rows(db, "SELECT status, count(*) FROM llm_calls GROUP BY 1 ORDER BY 1") == [
        ("failed", len(MALFORMED)), ("ok", 1),
    ]  # fmt: skip
    assert (
        value(db, "SELECT count(*) FROM llm_calls WHERE input_tokens < reserved AND status = 'failed'") == 0
    )


def explained(text: str) -> object:
    return parse_explanation(text, tags=(), max_words=60)


@pytest.mark.parametrize("poison", ['{"explanation": "a \\ud800 b"}', '{"explanation": ' + "7" * 5_000 + "}"])
def test_what_parses_to_no_valid_text_is_not_kept_as_good_and_is_asked_again(db: Db, poison: str) -> None:
    replies = iter([chat(poison, usage=USAGE), chat('{"explanation": "fine"}', usage=USAGE)])

    async def body(url: str) -> MeteredClient:
        with pytest.raises(UnparsableAnswerError):
            await asking(db, url).ask(REQUEST, CONTEXT, explained)
        again = asking(db, url)
        assert not (await again.ask(REQUEST, CONTEXT, explained)).cached
        assert (await again.ask(REQUEST, CONTEXT, explained)).cached
        return again

    with serving(lambda sent: next(replies)) as url:
        again = asyncio.run(body(url))
    assert again.asked_again == 1


def test_a_poisoned_answer_that_an_old_store_holds_as_good_is_asked_for_again_once(db: Db) -> None:
    with serving(lambda sent: chat('{"explanation": "fine"}', usage=USAGE)) as url:
        request = replace(REQUEST, endpoint=url)
        table = CallTable(db, "old")
        poison = LLMAnswer('{"explanation": "a \\ud800 b"}', "stop", 11, 3, "billed")
        table.settle(
            table.reserve(request, CONTEXT, 100), CallRecord(poison, None, 11, 3, "billed", None, 0.1)
        )

        async def body() -> list[bool]:
            client = asking(db, url)
            return [(await client.ask(request, CONTEXT, explained)).cached for _ in range(2)]

        assert asyncio.run(body()) == [False, True]
    assert rows(db, "SELECT status, error FROM llm_calls ORDER BY call_id") == [
        ("failed", "UnparsableAnswerError"), ("ok", None),
    ]  # fmt: skip


def test_the_ledger_can_sum_whatever_an_old_store_holds(db: Db) -> None:
    for prompt in "ab":
        table = CallTable(db, "run")
        answer = LLMAnswer("yes", "stop", 2**62, 2**62, "billed")
        call_id = table.reserve(replace(REQUEST, prompt=prompt), CONTEXT, 100)
        table.settle(call_id, CallRecord(answer, None, 2**62, 2**62, "billed", None, 0.1))

    assert total_tokens(db) == 2**64
    assert [row["tokens in"] for row in ledger_rows(db)] == [2**63]
    assert value(db, "SELECT max(tokens) FROM ledger") == 2**63


def test_a_server_that_hides_what_it_bills_is_stopped_by_the_budget_all_the_same(db: Db) -> None:
    async def body(url: str) -> int:
        client = asking(db, url, budget="3000")
        for i in range(100):
            try:
                await client.ask(replace(REQUEST, prompt=f"{LONG}{i}"), CONTEXT)
            except BudgetExceededError:
                return i
        return 100

    with serving(lambda sent: chat("yes", usage={"prompt_tokens": 1, "completion_tokens": 0})) as url:
        n_asked = asyncio.run(body(url))

    assert n_asked < 20
    assert rows(db, "SELECT DISTINCT usage_source FROM llm_calls") == [("floor",)]
    assert ledger_rows(db)[0]["partly estimated"]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(b" " * (5 * 2**20)), "the endpoint's reply is larger than 4 MiB"),
        (
            Reply(gzip.compress(b"a" * (50 * 2**20), 1), headers={"Content-Encoding": "gzip"}),
            "the endpoint's reply is larger than 4 MiB",
        ),
        (
            Reply(gzip.compress(b"a" * (50 * 2**20), 1), status=500, headers={"Content-Encoding": "gzip"}),
            "the endpoint's reply is larger than 4 MiB",
        ),
    ],
)
def test_a_large_reply_is_read_no_further_than_the_limit(db: Db, reply: Reply, reason: str) -> None:
    tracemalloc.start()
    try:
        with serving(lambda sent: reply) as url, pytest.raises(UnparsableAnswerError, match=reason):
            asyncio.run(asking(db, url).ask(REQUEST, CONTEXT))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 30 * 2**20
    assert rows(db, "SELECT status, input_tokens = reserved FROM llm_calls") == [("failed", True)]


def test_a_trickle_ends_at_the_deadline_of_the_attempt() -> None:
    drip = replace(chat("yes", usage=USAGE), drip=0.02)  # 4 s, and never 0.2 s of silence
    with (
        serving(lambda sent: drip) as url,
        pytest.raises(TransientLLMError, match="no answer in time") as caught,
    ):
        asyncio.run(OpenAIClient(url, "none", "m", timeout=0.2).complete(REQUEST))
    assert caught.value.maybe_billed


def test_no_redirect_is_followed_to_another_place_nor_in_a_loop(db: Db) -> None:
    elsewhere: list[object] = []
    here: list[object] = []

    def thief(sent: object) -> Reply:
        elsewhere.append(sent)
        return chat("stolen", usage=USAGE)

    with serving(thief) as other:
        for location in (f"{other}/chat/completions", "/v1/chat/completions"):

            def redirect(sent: object, location: str = location) -> Reply:
                here.append(sent)
                return Reply(b"", 307, {"Location": location})

            with serving(redirect) as url, pytest.raises(LLMUnavailableError) as caught:
                asyncio.run(asking(db, url).ask(REQUEST, CONTEXT))
            assert "a redirect, which is not followed" in str(caught.value)
            assert "\n" not in str(caught.value)
    assert (len(elsewhere), len(here)) == (0, 2)


def test_a_servers_words_carry_no_control_characters_into_errors() -> None:
    words = fault(401, "wrong\x1b]0;title\x07 key \ud800")
    with serving(lambda sent: words) as url, pytest.raises(LLMUnavailableError) as caught:
        asyncio.run(OpenAIClient(url, "none", "m").complete(REQUEST))
    assert str(caught.value).isprintable()


# Carrying answers elsewhere


def test_an_export_is_for_its_owner_alone(db: Db, tmp_path: Path) -> None:
    file = tmp_path / "calls.jsonl"
    export_calls(db, file)
    assert file.stat().st_mode & 0o777 == 0o600


def test_an_export_that_cannot_be_written_says_so_and_leaves_nothing(db: Db, tmp_path: Path) -> None:
    table = CallTable(db, "run")
    answer = LLMAnswer("y" * 20_000, "stop", 11, 3, "billed")
    table.settle(table.reserve(REQUEST, CONTEXT, 100), CallRecord(answer, None, 11, 3, "billed", None, 0.1))
    with pytest.raises(DataError, match=r"cannot write /proc/none/calls\.jsonl"):
        export_calls(db, Path("/proc/none/calls.jsonl"))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, limits[1]))  # as a full disk: the write fails half way
    try:
        with pytest.raises(DataError, match="cannot write"):
            export_calls(db, tmp_path / "calls.jsonl")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir() if "calls" in path.name] == []


@pytest.mark.parametrize("n_tokens", [-1, 2**62, 10**30, True, "7"])
def test_imported_usage_is_bounded_too(db: Db, tmp_path: Path, n_tokens: object) -> None:
    table = CallTable(db, "run")
    answer = LLMAnswer("yes", "stop", 11, 3, "billed")
    table.settle(table.reserve(REQUEST, CONTEXT, 100), CallRecord(answer, None, 11, 3, "billed", None, 0.1))
    file = tmp_path / "calls.jsonl"
    export_calls(db, file)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"input_tokens": n_tokens}))
    with pytest.raises(DataError, match="line 1 is not an exported answer"):
        import_calls(db, file)


# All of it at random


def test_random_replies_neither_break_nor_poison_nor_overspend(
    db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metered, "FIRST_WAIT", 0.001)

    outcome = fuzz(db, seed=14, n_replies=300)

    assert outcome.clean, outcome
    assert len(outcome.kinds) == 9
    assert outcome.errors["UnparsableAnswerError"] > 20

"""The cache and ledger in the store: what is kept, what is summed, and what may be carried elsewhere."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from safesail.domain.ids import FeatureId
from safesail.errors import DataError
from safesail.llm.budget_tracker import Spent
from safesail.llm.metered import CallRecord
from safesail.llm.types import CallContext, LLMAnswer, LLMRequest
from safesail.store.calls import CallTable, export_calls, import_calls, ledger_rows, total_tokens
from safesail.store.connection import Db, open_memory, open_reader, open_writer
from safesail.store.sql import rows, value

REQUEST = LLMRequest("m", "http://localhost:1/v1", "system", "prompt", 0.0, 20, json_schema="{}", sample=3)
CONTEXT = CallContext("explain", "hash", FeatureId("sae", 7))
ANSWER = LLMAnswer("yes", "stop", 10, 5, "billed")


def record(
    answer: LLMAnswer | None = ANSWER, error: str | None = None, price: float | None = None
) -> CallRecord:
    n_in, n_out = (answer.input_tokens, answer.output_tokens) if answer else (100, 0)
    return CallRecord(answer, error, n_in, n_out, answer.usage_source if answer else "estimated", price, 0.5)


def asked(
    db: Db,
    prompt: str = "prompt",
    done: CallRecord | None = None,
    *,
    run_id: str = "run",
    context: CallContext = CONTEXT,
    request: LLMRequest = REQUEST,
) -> str:
    """One call from beginning to end; returns its key."""
    table = CallTable(db, run_id)
    sent = replace(request, prompt=prompt)
    table.settle(table.reserve(sent, context, 100), done or record())
    return sent.cache_key()


# The cache


def test_a_good_answer_is_found_by_every_run_and_the_first_one_stays(db: Db) -> None:
    key = asked(db)
    asked(db, done=record(replace(ANSWER, text="no")), run_id="other")
    assert CallTable(db, "third").lookup(key) == ANSWER


def test_failures_are_never_found(db: Db) -> None:
    cut = asked(db, "cut", record(replace(ANSWER, finish="length"), "TruncatedAnswerError"))
    lost = asked(db, "lost", record(None, "TransientLLMError"))
    table = CallTable(db, "run")
    table.reserve(REQUEST, CONTEXT, 100)
    assert [table.lookup(key) for key in (cut, lost, REQUEST.cache_key(), "unknown")] == [None] * 4


@pytest.mark.parametrize(
    "text", ["", "鬼 \u2028 \x85 \x00 '\"; DROP TABLE llm_calls; --", "a\r\nb\tc", "{{x}}"]
)
def test_any_text_comes_back_as_it_was(db: Db, text: str) -> None:
    key = asked(db, text, record(replace(ANSWER, text=text)))
    assert CallTable(db, "run").lookup(key) == replace(ANSWER, text=text)
    (stored,) = rows(db, "SELECT request FROM llm_calls")
    assert LLMRequest(**json.loads(stored[0])) == replace(REQUEST, prompt=text)


def test_a_call_is_on_disk_before_it_is_sent(tmp_path: Path) -> None:
    """Each write is committed at once: another connection, which sees only what is committed, sees it."""
    with open_writer(tmp_path / "s.duckdb") as db:
        other = db.cursor()
        table = CallTable(db, "run")
        call_id = table.reserve(REQUEST, CONTEXT, 100)
        assert rows(other, "SELECT status, reserved FROM llm_calls") == [("reserved", 100)]
        table.settle(call_id, record())
        assert rows(other, "SELECT status FROM llm_calls") == [("ok",)]


# The ledger


def test_sums_by_hand(db: Db) -> None:
    asked(db, "a", record(price=0.25))
    asked(db, "b", record(replace(ANSWER, usage_source="estimated"), price=0.5), run_id="two")
    asked(db, "c", record(None, "TransientLLMError"), run_id="two")
    simulate = CallContext("simulate", "other hash")
    asked(db, "d", run_id="two", context=simulate, request=replace(REQUEST, model="n"))
    heads = ("calls", "failed", "tokens in", "tokens out", "dollars", "seconds", "partly estimated")
    summed = ledger_rows(db)
    assert all(row.pop("from") <= row.pop("to") for row in summed)
    assert summed == [
        {"stage": "explain", "model": "m", "run_id": "run",
         **dict(zip(heads, (1, 0, 10, 5, 0.25, 0.5, False), strict=True))},
        {"stage": "explain", "model": "m", "run_id": "two",
         **dict(zip(heads, (2, 1, 110, 5, 0.5, 1.0, True), strict=True))},
        {"stage": "simulate", "model": "n", "run_id": "two",
         **dict(zip(heads, (1, 0, 10, 5, None, 0.5, False), strict=True))},
    ]  # fmt: skip
    assert [(r["sae_id"], r["calls"]) for r in ledger_rows(db, ["sae_id"])] == [("sae", 3), (None, 1)]
    assert (total_tokens(db, "run"), total_tokens(db, "two"), total_tokens(db)) == (15, 130, 145)
    assert CallTable(db, "two").spent() == [Spent("m", 2, 115, 0.5, 100), Spent("n", 1, 15, 0.0, 15)]
    assert CallTable(db, "three").spent() == []


def test_an_attempt_that_cost_nothing_is_no_estimate(db: Db) -> None:
    asked(db, done=CallRecord(None, "TransientLLMError", 0, 0, "estimated", None, 0.1))
    assert not ledger_rows(db, ["stage"])[0]["partly estimated"]


def test_what_a_dead_run_left_open_counts_everywhere_at_its_worst_case(db: Db) -> None:
    CallTable(db, "dead").reserve(REQUEST, CONTEXT, 100)
    for _ in range(2):  # as long as it may live, and after another run found it dead
        assert CallTable(db, "dead").spent() == [Spent("m", 1, 100, 0.0, 100)]
        assert total_tokens(db) == total_tokens(db, "dead") == 100
        (row,) = ledger_rows(db, ["run_id"])
        assert (row["failed"], row["tokens in"], row["tokens out"]) == (1, 100, 0)
        assert row["partly estimated"]
        CallTable(db, "next")
    assert value(db, "SELECT tokens FROM ledger") == 100
    assert value(db, "SELECT status FROM llm_calls") == "lost"


def test_an_empty_ledger(db: Db) -> None:
    assert ledger_rows(db) == []
    assert total_tokens(db) == 0


# Carrying answers elsewhere


def filled(path: Path) -> list[str]:
    """A file with two answers out of a store with more."""
    with open_memory() as db:
        keys = [asked(db, prompt, record(replace(ANSWER, text=f"{prompt}\u2028\x85!"))) for prompt in "ab"]
        asked(db, "a", record(replace(ANSWER, text="later")), run_id="other")
        asked(db, "bad", record(ANSWER, "TruncatedAnswerError"))
        assert export_calls(db, path) == 3
    return keys


def test_answers_go_from_store_to_store(db: Db, tmp_path: Path) -> None:
    file = tmp_path / "calls.jsonl"
    keys = filled(file)
    assert import_calls(db, file) == 3
    table = CallTable(db, "run")
    assert [table.lookup(key) for key in keys] == [replace(ANSWER, text=f"{p}\u2028\x85!") for p in "ab"]
    assert import_calls(db, file) == 0
    assert value(db, "SELECT count(*) FROM llm_calls") == 3
    again = tmp_path / "again.jsonl"
    assert export_calls(db, again) == 3
    assert again.read_bytes() == file.read_bytes()


def test_imported_answers_are_no_spending_of_this_store(db: Db, tmp_path: Path) -> None:
    filled(tmp_path / "calls.jsonl")
    import_calls(db, tmp_path / "calls.jsonl")
    assert total_tokens(db) == 0
    assert ledger_rows(db) == []


def test_what_is_here_already_is_left_alone(db: Db, tmp_path: Path) -> None:
    filled(tmp_path / "calls.jsonl")
    mine = asked(db, "a", record(replace(ANSWER, text="mine")))
    assert import_calls(db, tmp_path / "calls.jsonl") == 2
    found = CallTable(db, "run").lookup(mine)
    assert found is not None
    assert found.text == "mine"


def test_a_file_says_what_was_asked_and_answered_and_nothing_of_who_and_when(tmp_path: Path) -> None:
    file = tmp_path / "calls.jsonl"
    filled(file)
    assert [set(json.loads(line)) for line in file.read_text(encoding="utf-8").split("\n") if line] == [
        {"cache_key", "stage", "sae_id", "feature", "prompt_hash", "request", "answer", "finish",
         "input_tokens", "output_tokens", "usage_source", "error"}
    ] * 3  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["calls.jsonl"]


def test_a_reader_can_export(tmp_path: Path) -> None:
    with open_writer(tmp_path / "s.duckdb") as db:
        asked(db)
    with open_reader(tmp_path / "s.duckdb") as db:
        assert export_calls(db, tmp_path / "calls.jsonl") == 1


def without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda entry: entry.pop(name)


def having(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda entry: entry.update(values)


def asking(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda entry: entry["request"].update(values)


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (without("answer"), "answer: Field required"),
        (without("request"), "request: Field required"),
        (having(api_key="secret99"), "api_key: Extra inputs"),
        (having(answer=None), "answer: "),
        (having(answer=["yes"]), "answer: "),
        (having(input_tokens="10"), "input_tokens: "),
        (having(input_tokens=-1), "input_tokens: "),
        (having(output_tokens=1.5), "output_tokens: "),
        (having(usage_source="guessed"), "usage_source: "),
        (having(request=[]), "request: "),
        (asking(model=3), "request.model: "),
        (asking(prompt="another question"), "does not belong to its request"),
        (asking(endpoint="http://elsewhere/v1"), "does not belong to its request"),
        (having(cache_key="0" * 64), "does not belong to its request"),
    ],
)
def test_one_bad_line_and_nothing_is_imported(
    db: Db, tmp_path: Path, spoil: Callable[[dict[str, Any]], None], fault: str
) -> None:
    file = tmp_path / "calls.jsonl"
    filled(file)
    good, bad, *_ = file.read_text(encoding="utf-8").split("\n")
    entry = json.loads(bad)
    spoil(entry)
    file.write_text(f"{good}\n\n{json.dumps(entry)}\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        import_calls(db, file)
    message = str(caught.value)
    assert f"{file} line 3" in message  # blank lines count
    assert fault in message
    assert "\n" not in message
    assert "secret99" not in message
    assert value(db, "SELECT count(*) FROM llm_calls") == 0


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b'{"cache_key": ', "line 1"),
        (b"hello", "line 1"),
        (b"[]", "line 1"),
        (b"null", "line 1"),
        (b"\xff\xfe", "is not UTF-8 text"),
    ],
)
def test_what_is_no_exported_file_is_refused(db: Db, tmp_path: Path, content: bytes, fault: str) -> None:
    file = tmp_path / "calls.jsonl"
    file.write_bytes(content)
    with pytest.raises(DataError, match=fault) as caught:
        import_calls(db, file)
    assert "\n" not in str(caught.value)


def test_a_missing_file(db: Db, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file at"):
        import_calls(db, tmp_path / "none.jsonl")


def test_an_empty_file_brings_nothing(db: Db, tmp_path: Path) -> None:
    (tmp_path / "calls.jsonl").write_text("\n\n")
    assert import_calls(db, tmp_path / "calls.jsonl") == 0


def test_an_older_line_without_defaults_is_read(db: Db, tmp_path: Path) -> None:
    """A whole number for a temperature, and fields with defaults left out, are the same request."""
    plain = LLMRequest("m", "e", "s", "p", 0.0, 20)
    entry = {
        "cache_key": plain.cache_key(), "stage": "explain", "sae_id": None, "feature": None, "prompt_hash": "h",
        "request": {"model": "m", "endpoint": "e", "system": "s", "prompt": "p", "temperature": 0,
                    "max_tokens": 20},
        "answer": "yes", "finish": "stop", "input_tokens": 1, "output_tokens": 2, "usage_source": "billed",
    }  # fmt: skip
    (tmp_path / "calls.jsonl").write_text(json.dumps(entry))
    assert import_calls(db, tmp_path / "calls.jsonl") == 1
    assert CallTable(db, "run").lookup(plain.cache_key()) == LLMAnswer("yes", "stop", 1, 2, "billed")


def test_two_calls_never_share_an_id(db: Db) -> None:
    ids = [CallTable(db, run).reserve(REQUEST, CONTEXT, 1) for run in ("a", "b", "a")]
    assert len(set(ids)) == 3

"""The cache key: it changes with all that can change an answer, and with nothing else."""

import hashlib
import json
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safesail.llm.types import LLMAnswer, LLMRequest

REQUEST = LLMRequest("m", "http://localhost:1/v1", "be brief", "what is it?", 0.0, 20)

OTHER = {
    "model": "n",
    "endpoint": "http://localhost:2/v1",
    "system": "be long",
    "prompt": "what is it ?",
    "temperature": None,
    "max_tokens": 21,
    "json_schema": "{}",
    "sample": 1,
}


def test_the_key_is_sha256_of_canonical_json() -> None:
    # Written out by hand: stores of users hold such keys, so that another form would pay for everything again.
    text = (
        '{"endpoint":"http://localhost:1/v1","format":1,"json_schema":null,"max_tokens":20,"model":"m",'
        '"prompt":"what is it?","sample":0,"system":"be brief","temperature":0.0}'
    )
    assert REQUEST.cache_key() == hashlib.sha256(text.encode()).hexdigest()


def test_every_field_of_a_request_is_in_its_key() -> None:
    assert set(OTHER) == {field.name for field in fields(LLMRequest)}


@pytest.mark.parametrize("name", OTHER)
def test_each_field_changes_the_key(name: str) -> None:
    assert replace(REQUEST, **{name: OTHER[name]}).cache_key() != REQUEST.cache_key()


def test_a_whole_number_as_temperature_is_the_same_question() -> None:
    assert replace(REQUEST, temperature=0).cache_key() == REQUEST.cache_key()


texts = st.text(max_size=30)
requests = st.builds(
    LLMRequest, texts, texts, texts, texts, st.none() | st.floats(0, 2), st.integers(1, 10**6),
    st.none() | texts, st.integers(0, 99),
)  # fmt: skip


@given(requests, requests)
def test_two_requests_share_a_key_only_if_they_are_equal(a: LLMRequest, b: LLMRequest) -> None:
    assert (a.cache_key() == b.cache_key()) == (a == b)


@given(requests)
def test_a_request_that_went_through_json_has_the_same_key(request: LLMRequest) -> None:
    again = LLMRequest(**json.loads(json.dumps(request.__dict__)))
    assert again.cache_key() == request.cache_key()


def test_budgets_count_prompt_and_completion() -> None:
    assert LLMAnswer("a", "stop", 11, 3, "billed").tokens == 14

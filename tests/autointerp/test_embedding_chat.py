"""Choosing the simulator that goes by meaning: what is refused, and when."""

import asyncio

import pytest

from safesail.autointerp.clients import ChatSettings
from safesail.errors import ConfigError
from safesail.llm.budget import parse_budget
from safesail.llm.builtin_prompts import ENDPOINT
from safesail.llm.types import CallContext, LLMRequest
from safesail.prompting.templates import load_template
from safesail.store.connection import Db
from tests.meaning import needs_embedding

PROMPT = (
    load_template("simulate", "detection_v1")
    .render(explanation="Killing", texts=[("A", "She baked a cake"), ("B", "They murdered him")])
    .prompt
)


def test_it_cannot_explain() -> None:
    with pytest.raises(ConfigError, match="can simulate but not explain; name it as --simulator"):
        ChatSettings("embedding", "embedding", parse_budget("10k"))


def test_a_missing_extra_is_said_before_anything_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safesail.subject.minilm.PACKAGE", "no_such_package")
    with pytest.raises(ConfigError, match=r"pip install 'safesail\[embedding\]'"):
        ChatSettings("lexical", "embedding", parse_budget("10k"))


@needs_embedding
def test_both_clients_spend_from_one_budget(db: Db) -> None:
    pair = ChatSettings("lexical", "embedding", parse_budget("10k")).open(db, "run")
    request = LLMRequest("embedding", ENDPOINT, "", PROMPT, 0.0, 100)
    answered = asyncio.run(pair.simulator.ask(request, CallContext("simulate", "p")))
    # By words alone, nothing here is about killing.
    assert answered.answer.text == '{"active": ["B"]}'
    assert pair.explainer.spent_tokens == answered.answer.tokens > 0

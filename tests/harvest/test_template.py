"""Chat templates: what stands before a text is seen by the model, and never counts."""

import copy
from pathlib import Path

import pytest
import torch

from safesail.errors import ConfigError
from safesail.harvest.config import HarvestConfig
from safesail.harvest.run import HarvestJob, run_harvest
from safesail.harvest.template import chat_prefix
from safesail.sae.protocol import SAE
from safesail.store.connection import Db
from safesail.store.sql import rows, value
from safesail.subject.causal import CausalModel
from safesail.subject.protocol import Subject
from safesail.text.windows import cut
from tests.harvest.conftest import TEXTS

CHAT = HarvestConfig(chat_template=True)
TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}: {{ m['content'] }}]{% endfor %}"


@pytest.fixture
def chatty(subject: Subject) -> Subject:
    """The same model, with a template."""
    chatty = copy.copy(subject)
    assert isinstance(chatty, CausalModel)
    chatty.tokenizer = copy.deepcopy(subject.tokenizer)
    chatty.tokenizer.chat_template = TEMPLATE
    return chatty


def test_the_prefix_is_what_stands_before_the_text_without_bos(chatty: Subject) -> None:
    assert list(chat_prefix(chatty, CHAT)) == chatty.tokenize("[user: ")


@pytest.mark.parametrize(
    ("template", "message"),
    [(None, "has no chat template"), ("{{ messages[0]['content'] | upper }}", "does not show the text")],
)
def test_a_template_that_is_not_there_or_hides_the_text(
    chatty: Subject, template: str | None, message: str
) -> None:
    chatty.tokenizer.chat_template = template
    with pytest.raises(ConfigError, match=message):
        chat_prefix(chatty, CHAT)


def test_template_bos_and_padding_never_count_as_activity(
    db: Db, chatty: Subject, saes: list[SAE], text_file: Path
) -> None:
    # Batches hold windows of many lengths, so there is padding.
    config = HarvestConfig(n_ctx=16, shard_tokens=60, batch_tokens=400, chat_template=True)
    report = run_harvest(db, HarvestJob(chatty, saes, [str(text_file)], config), quiet=True)
    assert report.n_tokens == sum(len(chatty.tokenize(text)) for text in TEXTS)
    before = list(chat_prefix(chatty, CHAT))
    expected: dict[tuple[str, int, str, int], float] = {}
    for text in TEXTS:
        for start, ids in cut(chatty.tokenize(text), 16):
            for sae in saes:
                row = chatty.run(torch.tensor([[*before, *ids]]), capture=[sae.info.hook]).activations[
                    sae.info.hook
                ][0]
                acts = sae.encode(row[len(before) :])
                for t, j, v in zip(
                    *(c.tolist() for c in (acts.token, acts.feature, acts.value)), strict=True
                ):
                    expected[sae.info.sae_id, j, text, start + t] = v
    found = rows(
        db,
        "SELECT s.sae_id, a.feature, d.text, w.start + a.token % 16, a.value FROM activations a"
        " JOIN saes s USING (sae_key) JOIN windows w ON w.window_id = a.token // 16"
        " JOIN documents d USING (document_id)",
    )
    stored = {(s, j, text, place): v for s, j, text, place, v in found}
    assert stored.keys() == expected.keys()
    assert max(abs(stored[key] - expected[key]) for key in expected) < 1e-4
    longest = value(db, "SELECT max(a.token % 16 - len(w.tokens)) FROM activations a"
                        " JOIN windows w ON w.window_id = a.token // 16")  # fmt: skip
    assert longest < 0


def test_the_template_takes_room_from_the_window(
    db: Db, chatty: Subject, saes: list[SAE], text_file: Path
) -> None:
    n_before = len(chat_prefix(chatty, CHAT))
    config = HarvestConfig(n_ctx=chatty.n_ctx_max, chat_template=True)
    with pytest.raises(ConfigError, match=f"use {chatty.n_ctx_max - n_before} or less"):
        run_harvest(db, HarvestJob(chatty, saes, [str(text_file)], config), quiet=True)

"""Tokens of a prompt: roles, characters, templates, and what cannot be taken."""

import copy
from pathlib import Path

import pytest

from safesail.diagnose.tokens import answer_text, read_prompt, spans_of, with_answer
from safesail.errors import ConfigError
from safesail.subject.causal import CausalModel
from safesail.subject.loading import ModelConfig, load_subject
from safesail.subject.protocol import Subject
from tests.harvest.conftest import subject as subject

TEXT = "he said: 熊 und 🐻, ünd"
_TURNS = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
TEMPLATE = "{{ bos_token }}" + _TURNS + "{% if add_generation_prompt %}>{% endif %}"


def chatty(subject: Subject, template: str | None) -> Subject:
    model = copy.copy(subject)
    assert isinstance(model, CausalModel)
    model.tokenizer = copy.deepcopy(subject.tokenizer)
    model.tokenizer.chat_template = template
    return model


def test_spans_are_the_characters_of_each_token(subject: Subject) -> None:
    tokens = read_prompt(subject, TEXT)
    assert list(tokens.ids) == subject.tokenize(TEXT)
    assert set(tokens.roles) == {"prompt"}
    spelled = [TEXT[start:stop] for span in tokens.spans if span is not None for start, stop in [span]]
    assert [s for s in spelled if s == "he"] == ["he"]
    # Every byte is a token here: those of one character have its span in common.
    assert spelled.count("熊") == 3 and spelled.count("🐻") == 4 and spelled.count("ü") == 2
    covered = {i for span in tokens.spans if span is not None for i in range(*span)}
    assert covered == set(range(len(TEXT)))


@pytest.mark.model
def test_spans_of_a_real_tokenizer(smollm2_dir: Path) -> None:
    subject = load_subject(ModelConfig(str(smollm2_dir)))
    text = "Wie heißt 北京 auf Hindi? बीजिंग 🇨🇳 ok"
    tokens = read_prompt(subject, text)
    for string, span in zip(tokens.strings, tokens.spans, strict=True):
        assert span is not None
        assert "\\x" in string or text[span[0] : span[1]] == string
    last = (len(text) - 3, len(text))
    assert tokens.spans[-1] == last
    assert spans_of(tokens.strings)[-1] == last
    chat = read_prompt(subject, text, chat=True)
    own = [i for i, role in enumerate(chat.roles) if role == "prompt"]
    spans = [span for i in own if (span := chat.spans[i]) is not None]
    assert {c for start, stop in spans for c in range(start, stop)} == set(range(len(text)))
    assert own == list(range(own[0], own[-1] + 1))
    assert own[0] > 0
    assert own[-1] < len(chat) - 1
    assert chat.strings[-1] == "\n" and chat.roles[0] == "template"


def test_the_template_is_marked_and_bos_is_not_given_twice(subject: Subject) -> None:
    model = chatty(subject, TEMPLATE)
    tokens = read_prompt(model, "the sea", chat=True)
    assert "".join(tokens.strings) == "[the sea]>"
    assert tokens.ids[0] not in model.prefix
    marked = "".join(s for s, role in zip(tokens.strings, tokens.roles, strict=True) if role == "template")
    assert marked == "[]>"
    assert tokens.spans[1] == (0, 1) and tokens.spans[0] is None


def test_blanks_that_a_template_leaves_out_shift_the_spans(subject: Subject) -> None:
    model = chatty(subject, TEMPLATE.replace("m['content']", "m['content'] | trim"))
    tokens = read_prompt(model, "  the sea ", chat=True)
    assert "".join(tokens.strings) == "[the sea]>"
    assert next(span for span in tokens.spans if span is not None) == (2, 3)


@pytest.mark.parametrize("template", [None, "{{ messages[0]['content'] | upper }}"])
def test_a_template_that_is_not_there_or_hides_the_prompt(subject: Subject, template: str | None) -> None:
    with pytest.raises(ConfigError, match="leave the chat template out"):
        read_prompt(chatty(subject, template), "the sea", chat=True)


def test_what_cannot_be_taken(subject: Subject) -> None:
    with pytest.raises(ConfigError, match="the prompt has no token; give a text"):
        read_prompt(subject, "")
    with pytest.raises(ConfigError, match=r"the prompt has 80 tokens; .* takes 63: shorten it"):
        read_prompt(subject, "x" * 80)
    with pytest.raises(ConfigError, match="60 tokens, and 10 are to follow"):
        read_prompt(subject, "x" * 60, room=10)


def test_an_answer_has_spans_of_its_own_even_where_characters_break(subject: Subject) -> None:
    prompt = read_prompt(subject, "ab")
    broken = [*subject.tokenize("x熊"), *subject.tokenize("熊")[:2], *subject.tokenize("y")]
    tokens = with_answer(subject, prompt, broken)
    text = answer_text(tokens)
    assert text == "x熊\ufffdy"
    assert tokens.roles == ("prompt",) * 2 + ("answer",) * len(broken)
    assert list(tokens.spans[2:]) == [(0, 1), *[(1, 2)] * 3, *[(2, 3)] * 2, (3, 4)]

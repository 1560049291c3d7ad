"""Tokens of a prompt: which are the user's, the chat template's or the model's answer, and where they stand."""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from safesail.domain.pieces import joined_text, piece_bytes
from safesail.errors import ConfigError
from safesail.subject.chat import round_text
from safesail.subject.protocol import Subject

Role = Literal["template", "prompt", "answer"]
Span = tuple[int, int]
"""Characters [start, end). Tokens that are pieces of one character have its span in common."""


@dataclass(frozen=True)
class Tokens:
    """A row of tokens, without the model's own special tokens (BOS)."""

    ids: tuple[int, ...]
    strings: tuple[str, ...]
    roles: tuple[Role, ...]
    spans: tuple[Span | None, ...]
    """In the prompt's text, or in the answer's; None of the template's tokens."""

    def __len__(self) -> int:
        return len(self.ids)


def read_prompt(subject: Subject, text: str, *, chat: bool = False, room: int = 0) -> Tokens:
    """The tokens of a prompt, as the model is given them.

    Args:
        subject: The model.
        text: The prompt.
        chat: Put the model's chat template round it.
        room: Tokens that are to find room behind them.

    Raises:
        ConfigError: no token, more than the model takes, no chat template, or a tokenizer that does not say where its
            tokens stand.
    """
    tokens = _in_chat(subject, text) if chat else _tokens(subject, text, (0, len(text)), 0)
    if "prompt" not in tokens.roles:
        raise ConfigError("the prompt has no token; give a text")
    if len(tokens) + room > subject.n_ctx_max:
        raise ConfigError(
            f"the prompt has {len(tokens)} tokens"
            + (f", and {room} are to follow" if room else "")
            + f"; {subject.info.model_id} takes {subject.n_ctx_max}: shorten it"
        )
    return tokens


def with_answer(subject: Subject, tokens: Tokens, answer: Sequence[int]) -> Tokens:
    """`tokens` and those of the answer that the model gave."""
    strings = subject.token_strings(answer)
    return Tokens(
        (*tokens.ids, *answer),
        (*tokens.strings, *strings),
        (*tokens.roles, *("answer" for _ in answer)),
        (*tokens.spans, *spans_of(strings)),
    )


def answer_text(tokens: Tokens) -> str:
    """What the model answered."""
    own = [s for s, role in zip(tokens.strings, tokens.roles, strict=True) if role == "answer"]
    return joined_text(own)


def spans_of(strings: Sequence[str]) -> list[Span]:
    r"""Where tokens stand in the text that they make, their pieces of characters spelled as `\xe4`."""
    pieces = [piece_bytes(string) for string in strings]
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    n, of_byte = 0, list[int]()  # of every byte its character
    for byte in b"".join(pieces):
        n += len(decoder.decode(bytes([byte])))
        of_byte.append(n if decoder.getstate()[0] else n - 1)
    spans: list[Span] = []
    stop = 0
    for piece in pieces:
        start, stop = stop, stop + len(piece)
        spans.append((of_byte[start], of_byte[stop - 1] + 1) if piece else (n, n))
    return spans


def _tokens(subject: Subject, text: str, own: Span, shift: int) -> Tokens:
    """The tokens of `text`, of which the characters `own` are the user's, `shift` characters into the prompt."""
    if not getattr(subject.tokenizer, "is_fast", False):
        raise ConfigError(
            f"the tokenizer of {subject.info.model_id} does not say where its tokens stand in the text; "
            "use its fast version (tokenizer.json)"
        )
    encoded = subject.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    start, stop = own
    spans: list[Span | None] = [
        (max(first, start) - start + shift, min(last, stop) - start + shift)
        if first < stop and last > start
        else None
        for first, last in encoded["offset_mapping"]
    ]
    roles = tuple[Role, ...]("template" if span is None else "prompt" for span in spans)
    ids = tuple(encoded["input_ids"])
    return Tokens(ids, subject.token_strings(ids), roles, tuple(spans))


def _in_chat(subject: Subject, text: str) -> Tokens:
    """The prompt with the template round it, which some templates show without the blanks at its ends."""
    before, after = round_text(subject.tokenizer, answer=True)
    chat = [{"role": "user", "content": text}]
    rendered = str(subject.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
    shown = next((s for s in (text, text.strip()) if rendered == before + s + after), None)
    if shown is None:
        raise ConfigError("the chat template does not show this prompt as it is; leave the chat template out")
    own = (len(before), len(before) + len(shown))
    tokens = _tokens(subject, rendered, own, text.index(shown))
    n = len(subject.prefix)
    if tokens.ids[:n] != subject.prefix:
        return tokens
    # The model is given them anyway.
    return Tokens(tokens.ids[n:], tokens.strings[n:], tokens.roles[n:], tokens.spans[n:])

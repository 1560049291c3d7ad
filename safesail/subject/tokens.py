"""Spelling single tokens so that people can read them and joining them gives the text."""

import json
import re
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from safesail.domain.pieces import spell_byte_level

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True)
class TokenSpeller:
    """Readable strings of a tokenizer's single tokens."""

    tokenizer: Any
    byte_level: bool
    """GPT-2's byte alphabet (True), or SentencePiece pieces with byte fallback (False)."""

    verbatim: frozenset[int]
    """Added tokens, which stand for themselves."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "TokenSpeller":
        """The speller of a Hugging Face tokenizer."""
        backend = getattr(tokenizer, "backend_tokenizer", None)
        byte_level = backend is not None and "ByteLevel" in json.dumps(
            json.loads(backend.to_str())["decoder"]
        )
        return cls(tokenizer, byte_level, frozenset(tokenizer.added_tokens_decoder))

    def spell(self, token_id: int) -> str:
        r"""The text of one token; bytes of a broken character are written as `\xe4`."""
        piece: str = self.tokenizer.convert_ids_to_tokens(token_id)
        if token_id in self.verbatim:
            return piece
        return spell_byte_level(piece) if self.byte_level else _spell_piece(piece)


def _spell_piece(piece: str) -> str:
    match = _BYTE_TOKEN.fullmatch(piece)
    if match:
        return bytes([int(match.group(1), 16)]).decode("utf-8", "backslashreplace")
    return piece.replace("\u2581", " ")

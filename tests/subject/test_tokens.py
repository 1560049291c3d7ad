from pathlib import Path

import pytest
from transformers import AutoTokenizer

from safesail.subject.tokens import TokenSpeller


def test_byte_level_tokens_spell_spaces_newlines_and_broken_characters(tiny_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    speller = TokenSpeller.of(tokenizer)
    ids = tokenizer.encode("he\n中", add_special_tokens=False)
    assert [speller.spell(i) for i in ids] == ["he", "\n", "\\xe4", "\\xb8", "\\xad"]


@pytest.mark.shared
def test_sentencepiece_tokens_spell_spaces_and_bytes(shared_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared_dir / "models" / "stories260k")
    speller = TokenSpeller.of(tokenizer)
    ids = tokenizer.encode("the cat\n中", add_special_tokens=False)
    assert "".join(speller.spell(i) for i in ids) == " the cat\n\\xe4\\xb8\\xad"
    assert speller.spell(tokenizer.bos_token_id) == "<s>"

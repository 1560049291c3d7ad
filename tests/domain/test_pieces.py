"""Tokens that are pieces of one character, joined; tokens as vocabularies have them, spelled."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safesail.domain.pieces import join_pieces, joined_text, spell_byte_level, spell_tokens

CASES: dict[str, tuple[list[str], list[float], list[str], list[float]]] = {
    "whole ones stay": (["a", " b", "了"], [0, 2, 1], ["a", " b", "了"], [0, 2, 1]),
    "three bytes": (["\\xe4", "\\xb8", "\\x80", "了"], [0, 3, 1, 2], ["一", "了"], [3, 2]),
    "two and one": ([" in", "\\xe4\\xb8", "\\x80"], [1, 0, 4], [" in", "一"], [1, 4]),
    "an emoji after a blank": ([" \\xf0\\x9f", "\\x98", "\\x80", "!"], [0, 1, 0, 0], [" 😀", "!"], [1, 0]),
    "one ends where the next begins": (
        ["\\xe4", "\\xb8\\x80\\xe4", "\\xba\\x86", "x"],
        [1, 2, 3, 0],
        ["一了", "x"],
        [3, 0],
    ),
    "cut off at the start": (["\\x80", "\\x81", "了"], [5, 6, 1], ["\ufffd", "了"], [6, 1]),
    "cut off at the start, then a whole one": (
        ["\\x80\\xe4", "\\xb8", "\\x80"],
        [5, 6, 1],
        ["\ufffd一"],
        [6],
    ),
    "cut off at the end": (["了", "\\xe4", "\\xb8"], [0, 2, 1], ["了", "\ufffd"], [0, 2]),
    "no character": (["a", "\\xff", "b"], [0, 2, 1], ["a", "\\xff", "b"], [0, 2, 1]),
    "nothing": ([], [], [], []),
}


@pytest.mark.parametrize("case", CASES)
def test_pieces_are_joined_with_the_activation_of_the_strongest(case: str) -> None:
    tokens, activations, texts, strongest = CASES[case]
    assert join_pieces(tokens, activations) == (tuple(texts), tuple(strongest))


@given(st.text(st.characters(exclude_characters="\\", exclude_categories=("Cs",))), st.data())
def test_any_text_cut_between_any_bytes_is_whole_again(text: str, data: st.DataObject) -> None:
    raw, tokens = text.encode(), list[str]()
    while raw:
        n = data.draw(st.integers(1, min(4, len(raw))))
        tokens.append(raw[:n].decode("utf-8", "backslashreplace"))
        raw = raw[n:]
    values = [float(i) for i in range(len(tokens))]
    texts, strongest = join_pieces(tokens, values)
    assert len(texts) == len(strongest) <= len(tokens)
    assert max(strongest, default=0.0) == max(values, default=0.0)
    assert "".join(texts) == text or max(map(len, _runs(tokens))) > 8


def _runs(tokens: list[str]) -> list[list[str]]:
    """Stretches of tokens none of which is whole."""
    runs: list[list[str]] = [[]]
    for token in tokens:
        if "\\x" in token:
            runs[-1].append(token)
        else:
            runs.append([])
    return runs


def test_tokens_in_the_byte_alphabet_are_spelled_as_text() -> None:
    assert spell_tokens(["The", "Ġcat", "âĢĲ", "ĊĊ", "<|endoftext|>"]) == [
        "The",
        " cat",
        "‐",
        "\n\n",
        "<|endoftext|>",
    ]
    assert spell_tokens(["ä¸", "Ģ", "Ġx"]) == ["\\xe4\\xb8", "\\x80", " x"]
    assert spell_tokens(["café", " au"]) == ["café", " au"]
    assert spell_tokens(["▁the", "cat"]) == [" the", "cat"]
    assert spell_byte_level("中") == "中", "no name of bytes"


def test_tokens_make_their_text_whatever_they_are_cut_into() -> None:
    assert joined_text(["say ", "\\xe4\\xbd", "\\xa0", "!"]) == "say 你!"
    assert joined_text(["\\xe4\\xbd", "a"]) == "\ufffda"

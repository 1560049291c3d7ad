import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safesail.domain.text import clean_text, text_fault


@pytest.mark.parametrize(
    ("escaped", "offset"), [(r'"a \ud800 b"', 2), (r'"\udfff"', 0), (r'"x\udc00\ud800"', 1)]
)
def test_half_a_character_is_a_fault_that_says_where(escaped: str, offset: int) -> None:
    text = json.loads(escaped)

    fault = text_fault(text)

    assert fault is not None and fault.endswith(f"at offset {offset}")


def test_a_whole_pair_is_one_character() -> None:
    assert text_fault(json.loads(r'"\ud83d\ude00"')) is None


def test_what_is_longer_than_allowed_is_a_fault() -> None:
    assert text_fault("abc", longest=3) is None
    assert text_fault("abcd", longest=3) == "4 characters; at most 3 are taken"


@given(st.text(st.characters(codec="utf-8")))
def test_what_is_no_fault_can_be_encoded_and_what_is_cleaned_has_no_controls(text: str) -> None:
    clean = clean_text(text)

    assert text_fault(clean) is None and clean.encode().decode() == clean
    assert all(c in "\t\n" or (ord(c) >= 0x20 and not 0x7F <= ord(c) < 0xA0) for c in clean)
    assert clean_text(clean) == clean


def test_line_ends_are_all_alike_and_nothing_else_is_lost() -> None:
    assert clean_text("a\r\nb\rc\x85d\te\x1b]0;title\x07") == "a\nb\nc\nd\te]0;title"

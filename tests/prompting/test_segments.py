import pytest
from hypothesis import given
from hypothesis import strategies as st

from safesail.prompting.segments import cut_segments, starts_word

TOKENS = st.lists(
    st.sampled_from(["a", " the", "ing", " bom", ".", ",", "'s", "\n", " ", "炸", "弹", " 7", "0"]),
    max_size=60,
)


def pieces(tokens: list[str], size: int) -> list[str]:
    return ["".join(tokens[a:b]) for a, b in cut_segments(tokens, size)]


def test_cut_by_hand() -> None:
    tokens = ["The", " bom", "bing", " of", " the", " old", " town", " was", " bad"]
    # Three tokens each: the cut after `bombing` lies at a word boundary; the rest of three is one more.
    assert pieces(tokens, 3) == ["The bombing", " of the old", " town was bad"]


def test_a_cut_never_splits_a_word_where_a_boundary_is_near() -> None:
    # The cut at 2 would split `bombing`; 1 and 3 are as near, and the earlier is taken.
    assert pieces(["The", " bom", "bing", " of", " it"], 2) == ["The", " bombing", " of it"]


def test_a_word_longer_than_two_segments_is_cut_inside() -> None:
    assert pieces(["a"] * 10, 3) == ["aaa", "aaa", "aaaa"]


def test_a_short_rest_joins_the_last_segment() -> None:
    assert pieces([" a"] * 9, 4) == [" a" * 4, " a" * 5]  # a rest of 1 is below half of 4
    assert pieces([" a"] * 10, 4) == [" a" * 4, " a" * 4, " a" * 2]


def test_chinese_may_be_cut_anywhere() -> None:
    assert pieces(["炸", "弹", "在", "市", "场"], 2) == ["炸弹", "在市", "场"]


@given(TOKENS, st.integers(1, 20))
def test_segments_hold_every_token_once_in_order(tokens: list[str], size: int) -> None:
    segments = cut_segments(tokens, size)
    assert [i for a, b in segments for i in range(a, b)] == list(range(len(tokens)))
    assert all(b > a for a, b in segments)
    assert all(b - a < 2.5 * size for a, b in segments)


@given(st.lists(st.sampled_from(["The", " old", " town", "ship", "."]), min_size=1, max_size=60))
def test_all_cuts_are_word_boundaries_in_text_of_short_words(tokens: list[str]) -> None:
    text = [token for i, token in enumerate(tokens) if token != "ship" or tokens[i - 1] == " town"]
    assert all(starts_word(text, a) for a, _ in cut_segments(text, 8)[1:])


def test_size_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 token, got 0"):
        cut_segments(["a"], 0)

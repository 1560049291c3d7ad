import pytest
from hypothesis import given
from hypothesis import strategies as st

from safesail.text.windows import cut


def test_by_hand() -> None:
    assert cut([5, 6, 7, 8, 9], 2) == [(0, (5, 6)), (2, (7, 8)), (4, (9,))]


def test_no_tokens_no_windows() -> None:
    assert cut([], 4) == []


@given(st.lists(st.integers(0, 1000), max_size=60), st.integers(1, 17))
def test_no_token_is_lost_or_doubled(ids: list[int], n_ctx: int) -> None:
    windows = cut(ids, n_ctx)
    assert [i for _, window in windows for i in window] == ids
    assert all(tuple(ids[start : start + len(window)]) == window for start, window in windows)
    assert all(len(window) == n_ctx for _, window in windows[:-1])


def test_a_window_needs_room() -> None:
    with pytest.raises(ValueError, match="n_ctx must be at least 1, got 0"):
        cut([1], 0)

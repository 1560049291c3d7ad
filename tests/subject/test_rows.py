"""Rows as batches."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from safesail.subject.rows import batches_by_length, pad


@given(st.lists(st.integers(0, 64), max_size=40), st.integers(1, 200))
def test_batches_hold_every_row_once_within_the_limit_shortest_first(lengths: list[int], limit: int) -> None:
    batches = batches_by_length(lengths, limit)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert [lengths[i] for batch in batches for i in batch] == sorted(lengths)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= limit


def test_rows_of_one_length_share_a_batch_as_long_as_they_fit() -> None:
    assert batches_by_length([2, 2, 2, 2, 2], 6) == [[0, 1, 2], [3, 4]]


def test_rows_are_padded_on_the_right() -> None:
    ids, mask = pad([[5], [6, 7, 8], []])
    assert ids.tolist() == [[5, 0, 0], [6, 7, 8], [0, 0, 0]]
    assert mask.tolist() == [[1, 0, 0], [1, 1, 1], [0, 0, 0]]
    assert ids.dtype == mask.dtype == torch.long

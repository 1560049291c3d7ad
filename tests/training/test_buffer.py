from collections import Counter

import pytest
import torch

from safesail.domain.records import Document
from safesail.subject.protocol import Subject
from safesail.training.buffer import (
    block_activations,
    blocks_of,
    shuffled,
    shuffled_batches,
)
from safesail.training.texts import take_windows

HOOK = "blocks.1.hook_mlp_out"


def documents(*texts: str) -> list[Document]:
    return [Document(f"id-{text}", text, "set/a.txt", "train") for text in texts]


def letters(text: str) -> list[int]:
    return [ord(c) for c in text]


def test_windows_are_taken_up_to_the_limit() -> None:
    windows, n_documents, digest = take_windows(iter(documents("abcde", "fgh", "ij")), letters, 2, 7)
    assert ["".join(map(chr, window)) for window in windows] == ["ab", "cd", "e", "fg"]
    assert n_documents == 2
    assert digest == take_windows(iter(documents("abcde", "fgh")), letters, 2, 100)[2]
    assert digest != take_windows(iter(documents("fgh", "abcde")), letters, 2, 100)[2]


def test_a_window_is_cut_where_the_limit_falls_within_it() -> None:
    windows, _, _ = take_windows(iter(documents("abcdef")), letters, 4, 5)
    assert windows == [(97, 98, 99, 100), (101,)]


def test_no_documents_no_windows() -> None:
    assert take_windows(iter([]), letters, 4, 5)[:2] == ([], 0)


def test_blocks_end_once_they_are_full() -> None:
    assert blocks_of([(1, 2, 3), (4,), (5, 6), (7,)], 4) == [[(1, 2, 3), (4,)], [(5, 6), (7,)]]


def test_shuffling_keeps_every_window_and_depends_on_the_seed() -> None:
    windows = [(i,) for i in range(100)]
    assert sorted(shuffled(windows, 0)) == windows
    assert shuffled(windows, 0) == shuffled(windows, 0) != shuffled(windows, 1)


def test_each_row_is_used_as_often_as_there_are_passes() -> None:
    x = torch.arange(12.0)[:, None]
    used = Counter(int(v) for batch in shuffled_batches(x, 4, 2, 0) for v in batch.flatten())
    assert used == dict.fromkeys(range(12), 2)


def test_what_does_not_fill_a_batch_is_left_out() -> None:
    assert [len(b) for b in shuffled_batches(torch.zeros(11, 2), 4, 1, 0)] == [4, 4]


def test_rows_of_two_hooks_belong_to_the_same_tokens(tiny: Subject) -> None:
    windows = [(10, 20, 30), (40,), (50, 60)]
    both = block_activations(tiny, windows, [HOOK, "blocks.0.hook_resid_post"])
    assert {name: tuple(x.shape) for name, x in both.items()} == {
        HOOK: (6, 32),
        "blocks.0.hook_resid_post": (6, 32),
    }
    # Sorted by length: 40 is first, and stands after a BOS alone.
    alone = tiny.run(torch.tensor([[40]]), capture=[HOOK]).activations[HOOK][0, 0]
    torch.testing.assert_close(both[HOOK][0], alone, atol=1e-5, rtol=1e-4)


def test_a_row_is_never_split(tiny: Subject) -> None:
    with pytest.raises(ValueError, match="rows of 64 tokens"):
        block_activations(tiny, [(5,) * 64], [HOOK])

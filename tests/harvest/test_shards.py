"""Cutting text into shards and batches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safesail.domain.ids import content_id
from safesail.domain.records import Document
from safesail.errors import DataError
from safesail.harvest.shards import Shard, cut_shards, in_sample


def documents(lengths: list[int]) -> list[Document]:
    texts = [f"{i:03}" + "x" * n for i, n in enumerate(lengths)]
    return [Document(content_id(text), text, "test", "train") for text in texts]


def cut(lengths: list[int], n_ctx: int, shard_tokens: int, cap: int | None = None) -> list[Shard]:
    return list(
        cut_shards(documents(lengths), tokenize, n_ctx=n_ctx, shard_tokens=shard_tokens, n_tokens=cap)
    )


def tokenize(text: str) -> list[int]:
    return [ord(c) for c in text[3:]]


@given(st.lists(st.integers(0, 30), max_size=20), st.integers(1, 50), st.integers(1, 9))
def test_shards_and_windows_hold_every_token_once(lengths: list[int], shard_tokens: int, n_ctx: int) -> None:
    shards = cut(lengths, n_ctx, shard_tokens)
    assert [s.number for s in shards] == list(range(len(shards)))
    assert all(s.n_tokens >= shard_tokens for s in shards[:-1])
    windows = [w for s in shards for w in s.windows(n_ctx)]
    assert sum(len(w.token_ids) for w in windows) == sum(lengths)
    assert all(len(w.token_ids) <= n_ctx for w in windows)
    assert [w.window_id for w in windows] == list(range(len(windows)))  # across the seams of shards too


@given(st.lists(st.integers(0, 30), min_size=1, max_size=20), st.integers(1, 50), st.integers(1, 400))
def test_the_cap_is_kept_to_the_token(lengths: list[int], shard_tokens: int, cap: int) -> None:
    shards = cut(lengths, 5, shard_tokens, cap)
    assert sum(s.n_tokens for s in shards) == min(cap, sum(lengths))
    taken = [d.token_ids for s in shards for d in s.documents]
    whole = [d.token_ids for s in cut(lengths, 5, shard_tokens) for d in s.documents]
    assert taken[:-1] == whole[: len(taken)][:-1]  # only the last document is cut


def test_a_shard_is_known_by_its_documents() -> None:
    first, other = documents([5, 6]), documents([5, 7])
    one, same, changed = (
        next(cut_shards(d, tokenize, n_ctx=9, shard_tokens=99, n_tokens=None)).content
        for d in (first, first, other)
    )
    assert one == same != changed


def test_sample_is_near_its_share_and_the_same_every_time() -> None:
    ids = [content_id(str(i)) for i in range(2000)]
    drawn = [i for i in ids if in_sample(i, 0.2, seed=3)]
    assert drawn == [i for i in ids if in_sample(i, 0.2, seed=3)]
    assert 340 < len(drawn) < 460  # 400 expected, 3.4 standard deviations of 17.9


def test_a_document_that_breaks_the_tokenizer_is_named() -> None:
    def breaks(text: str) -> list[int]:
        if text.startswith("001"):
            raise RuntimeError("no such\nbyte")
        return tokenize(text)

    made = documents([5, 5, 5])
    shards = cut_shards(made, breaks, n_ctx=9, shard_tokens=5, n_tokens=None)
    assert next(shards).documents[0].document == made[0]  # what came before stands
    with pytest.raises(
        DataError, match=f"cannot take document {made[1].document_id} of test .no such byte.;"
    ):
        next(shards)

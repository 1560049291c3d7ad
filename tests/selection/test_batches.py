from hypothesis import given
from hypothesis import strategies as st

from safesail.domain.records import Concept, ConceptPair
from safesail.selection.batches import cut_chunks, tokenize_pairs
from safesail.selection.config import SelectionConfig

SIZES = st.lists(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=0, max_size=60),
    min_size=1,
    max_size=12,
)


def concepts_of(sizes: list[list[tuple[int, int]]]) -> list[Concept]:
    return [
        Concept(
            f"c{i}", "d", None, "n", "x",
            tuple(ConceptPair(f"{i}.{j}", "en", "news", "x" * p, "x" * n) for j, (p, n) in enumerate(own)),
        )
        for i, own in enumerate([*sizes, [(1, 1)]])
    ]  # fmt: skip


def tokenize(text: str) -> list[int]:
    return list(range(len(text)))


@given(SIZES, st.integers(1, 400))
def test_every_pair_is_in_one_batch_and_concepts_close_after_their_last(
    sizes: list[list[tuple[int, int]]], batch_tokens: int
) -> None:
    pairs = tokenize_pairs(concepts_of(sizes), tokenize, 30, SelectionConfig())
    chunks = cut_chunks(pairs, batch_tokens)
    assert [c for chunk in chunks for c in chunk.concepts] == list(range(len(sizes) + 1))
    for chunk in chunks:
        inside = [pair for batch in chunk.batches for pair in batch.pairs]
        assert {pair.concept for pair in inside} <= set(chunk.concepts)
        assert len(inside) == sum(len(pairs[c]) for c in chunk.concepts)
        assert len({id(pair) for pair in inside}) == len(inside)
        for batch in chunk.batches:
            longest = max(len(row) for row in batch.rows)
            assert len(batch.rows) * longest <= batch_tokens or len(batch.pairs) == 1


@given(SIZES)
def test_the_order_within_a_concept_does_not_depend_on_the_batches(
    sizes: list[list[tuple[int, int]]],
) -> None:
    pairs = tokenize_pairs(concepts_of(sizes), tokenize, 30, SelectionConfig())

    def order(batch_tokens: int) -> list[list[int]]:
        flat = [
            p for chunk in cut_chunks(pairs, batch_tokens) for batch in chunk.batches for p in batch.pairs
        ]
        return [[id(p) for p in flat if p.concept == c] for c in range(len(pairs))]

    assert order(1) == order(100) == order(10_000)


def test_rows_alternate_and_gaps_are_pos_minus_neg() -> None:
    (batch,) = cut_chunks(tokenize_pairs(concepts_of([[(3, 1)]]), tokenize, 9, SelectionConfig()), 99)[
        0
    ].batches
    assert [len(row) for row in batch.rows] == [1, 1, 3, 1]
    assert batch.gaps.tolist() == [0, 2]
    assert batch.concepts.tolist() == [1, 0]

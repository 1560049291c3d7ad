from collections import Counter

from safesail.domain.ids import content_id
from safesail.text.splits import split_of


def test_shares_are_sixty_and_forty_percent() -> None:
    counts = Counter(split_of(content_id(str(i)), 0) for i in range(20_000))
    # Standard deviation of a share of 20,000 draws is at most 0.0035.
    assert abs(counts["train"] / 20_000 - 0.60) < 0.015
    assert counts["train"] + counts["test"] == 20_000


def test_a_document_keeps_its_split_and_another_seed_deals_anew() -> None:
    ids = [content_id(str(i)) for i in range(200)]
    first = [split_of(i, 0) for i in ids]
    assert first == [split_of(i, 0) for i in reversed(ids)][::-1]
    assert first != [split_of(i, 1) for i in ids]

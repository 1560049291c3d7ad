"""Tokens that one feature may be expected to move: those that follow it, and its concept's words."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

MIN_FOLLOWS = 2
"""Times that a token follows a feature at least, to be in its set."""

_WORD = re.compile(r"\W?[^\W\d_]{3,}")

MIN_TOKENS = 3
"""Tokens of a set, at least."""


def followers(follows: Mapping[int, int], counts: Mapping[int, int], size: int) -> list[int]:
    """Tokens that follow a feature more often than they come anywhere, the most telling first.

    Ranked by n log(p(token | fires) / p(token)): how much they tell of the feature, rare ones not preferred.

    Args:
        follows: How often each token follows one on which the feature fires.
        counts: How often each token comes in the same texts.
        size: At most so many.
    """
    n_follows, n_all = sum(follows.values()), sum(counts.values())
    gain = {
        token: n * math.log(n * n_all / (n_follows * counts[token]))
        for token, n in follows.items()
        if n >= MIN_FOLLOWS and counts.get(token)
    }
    return [token for token in sorted(gain, key=lambda t: (-gain[t], t)) if gain[token] > 0][:size]


def key_words(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], size: int, is_word: Callable[[int], bool]
) -> list[int]:
    """Words of a concept's texts that their twins without it lack, in at least two pairs more than the other way.

    Args:
        pairs: Token ids of the text with the concept, and of its twin.
        size: At most so many.
        is_word: Whether a token can be read as a word.
    """
    lift: Counter[int] = Counter()
    for with_it, without in pairs:
        lift.update(set(with_it) - set(without))
        lift.subtract(set(without) - set(with_it))
    often = [token for token, n in lift.items() if n >= MIN_FOLLOWS and is_word(token)]
    return sorted(often, key=lambda t: (-lift[t], t))[:size]


def words_of(tokens: Iterable[str]) -> list[str]:
    """Tokens that can be read as words, without blanks."""
    return [token.strip() for token in tokens if _WORD.fullmatch(token)]

"""Cutting features into ranges that are worked on one after the other, so that memory stays flat."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def runs(counts: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Ranges [start, stop) of indices whose counts add up to `limit` at most, or that are one; in order, all."""
    ranges: list[tuple[int, int]] = []
    start = held = 0
    for index, n in enumerate(counts):
        if held and held + n > limit:
            ranges.append((start, index))
            start, held = index, 0
        held += n
    return [*ranges, (start, len(counts))] if len(counts) else ranges


def in_turn(pool: ThreadPoolExecutor, make: Callable[[int], T], n: int) -> Iterator[T]:
    """What `make` gives for 0 to n - 1, in order; the next one is made while the caller works on this one."""
    ahead = pool.submit(make, 0) if n else None
    for number in range(1, n + 1):
        assert ahead is not None
        made = ahead.result()
        ahead = pool.submit(make, number) if number < n else None
        yield made

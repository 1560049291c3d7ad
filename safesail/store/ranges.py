"""Cutting features into runs that are worked on one after the other, so that memory stays flat."""

from collections.abc import Sequence


def runs(counts: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Places [start, stop) whose counts add up to `limit` at most, or that are one; in order, all of them."""
    found: list[tuple[int, int]] = []
    start = held = 0
    for place, n in enumerate(counts):
        if held and held + n > limit:
            found.append((start, place))
            start, held = place, 0
        held += n
    return [*found, (start, len(counts))] if len(counts) else found


def feature_ranges(counts: Sequence[tuple[int, int]], limit: int) -> list[tuple[int, int]]:
    """Ranges of features [first, stop) with at most `limit` rows each, or of one feature.

    Args:
        counts: Features that have rows, ascending, and how many.
        limit: Rows.
    """
    edges = [*(feature for feature, _ in counts), *(feature + 1 for feature, _ in counts[-1:])]
    return [(edges[start], edges[stop]) for start, stop in runs([n for _, n in counts], limit)]

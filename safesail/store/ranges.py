"""Cutting features into ranges that are worked on one after the other, so that memory stays flat."""

from collections.abc import Sequence

from safesail.store.sql import Db, rows


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


def feature_counts(db: Db, sae_key: int, figure: str) -> list[tuple[int, int]]:
    """Features of an SAE that have bins, ascending, each with a sum over them: `count(*)`, or `sum(n)` of nonzeros."""
    sql = f"SELECT feature, {figure} FROM activation_bins WHERE sae_key = ? GROUP BY 1 ORDER BY 1"
    return [(int(feature), int(n)) for feature, n in rows(db, sql, [sae_key])]


def feature_ranges(counts: Sequence[tuple[int, int]], limit: int) -> list[tuple[int, int]]:
    """Ranges of features [first, stop) with at most `limit` rows each, or of one feature.

    Args:
        counts: Features that have rows, ascending, and how many.
        limit: Rows.
    """
    edges = [*(feature for feature, _ in counts), *(feature + 1 for feature, _ in counts[-1:])]
    return [(edges[start], edges[stop]) for start, stop in runs([n for _, n in counts], limit)]

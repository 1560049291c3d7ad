"""Cutting a window's tokens into segments that end at word boundaries."""

from collections.abc import Sequence


def cut_segments(tokens: Sequence[str], size: int) -> tuple[tuple[int, int], ...]:
    """Segments of about `size` tokens as (start, stop), in order; together they hold every token once.

    Each is cut at the word boundary nearest to `size` tokens, the earlier of two. Where a word is so long
    that none lies within twice that, it is cut inside the word. A rest below half a segment joins the last.

    Raises:
        ValueError: `size` is below 1.
    """
    if size < 1:
        raise ValueError(f"a segment needs at least 1 token, got {size}")
    n_tokens = len(tokens)
    cuts = [0]
    while n_tokens - cuts[-1] > size:
        cut = _next_cut(tokens, cuts[-1], size)
        if 2 * (n_tokens - cut) < size:
            break
        cuts.append(cut)
    return tuple(zip(cuts, [*cuts[1:], n_tokens], strict=True)) if tokens else ()


def _next_cut(tokens: Sequence[str], start: int, size: int) -> int:
    for distance in range(size):
        for cut in (start + size - distance, start + size + distance):
            if start < cut < len(tokens) and starts_word(tokens, cut):
                return cut
    return start + size


def starts_word(tokens: Sequence[str], i: int) -> bool:
    """Whether a word may be said to begin at token `i`: not between two letters, digits or apostrophes.

    Scripts written without spaces, such as Chinese, may be cut before any character.
    """
    before, after = tokens[i - 1][-1:], tokens[i][:1]
    return not (_in_word(before) and _in_word(after))


def _in_word(character: str) -> bool:
    return (character.isalnum() or character in {"'", "’", "_"}) and not "\u2e80" <= character <= "\u9fff"

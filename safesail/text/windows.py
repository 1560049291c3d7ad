"""Cutting a document's tokens into windows."""

from collections.abc import Sequence


def cut(token_ids: Sequence[int], n_ctx: int) -> list[tuple[int, tuple[int, ...]]]:
    """Consecutive windows of `n_ctx` tokens, the last one shorter: (index of the first token, ids).

    Joined in order they are `token_ids`: no token is lost or doubled.

    Raises:
        ValueError: `n_ctx` is below 1.
    """
    if n_ctx < 1:
        raise ValueError(f"n_ctx must be at least 1, got {n_ctx}")
    return [(start, tuple(token_ids[start : start + n_ctx])) for start in range(0, len(token_ids), n_ctx)]

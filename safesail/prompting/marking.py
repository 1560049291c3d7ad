"""Texts as prompts show them: on one line, unable to leave their fence, active tokens marked."""

from collections.abc import Sequence

_SAFE = str.maketrans({"<": "‹", ">": "›", "\n": "↵", "\r": "↵", "\x0b": " ", "\x0c": " ", "\x1c": " ", "\x1d": " ",
                       "\x1e": " ", "\x85": " ", "\u2028": " ", "\u2029": " "})  # fmt: skip


def safe_text(text: str) -> str:
    """`text` on one line, without `<` and `>`, which only the prompt's own tags and marks have.

    So no text can close its fence, open another, or mark a token. One character stands for each.
    """
    return text.translate(_SAFE)


def plain(tokens: Sequence[str]) -> str:
    """Tokens as running text."""
    return safe_text("".join(tokens)).strip()


def marked(tokens: Sequence[str], levels: Sequence[int], *, with_level: bool) -> str:
    """Tokens as running text, those of level 1 and more as `<<token|level>>` or `<<token>>`.

    Spaces round a token stay outside its mark.
    """
    parts: list[str] = []
    for token, level in zip(map(safe_text, tokens), levels, strict=True):
        core = token.strip()
        if level < 1 or not core:
            parts.append(token)
            continue
        before, _, after = token.partition(core)
        parts.append(f"{before}<<{core}|{level}>>{after}" if with_level else f"{before}<<{core}>>{after}")
    return "".join(parts).strip()


def crop(activations: Sequence[float], before: int, after: int) -> tuple[int, int]:
    """Where to cut a window so that its strongest token keeps `before` tokens ahead of it and `after` behind.

    A side that has fewer gives its room to the other. Returns (start, stop).
    """
    n_tokens = len(activations)
    size = min(before + 1 + after, n_tokens)
    peak = max(range(n_tokens), key=activations.__getitem__)
    start = min(max(peak - before, 0), n_tokens - size)
    return start, start + size

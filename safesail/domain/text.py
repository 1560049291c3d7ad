"""What counts as text: the one rule for what models answer, files hold and releases bring in."""

import re

_HALF = re.compile(r"[\ud800-\udfff]")
_CONTROLS = dict.fromkeys((*range(32), *range(127, 160)))
_CLEAN: dict[int, str | None] = _CONTROLS | {9: "\t", 10: "\n", 13: "\n", 0x85: "\n"}


def text_fault(text: str, longest: int | None = None) -> str | None:
    """Why `text` can be stored nowhere; None where it can.

    Args:
        text: From JSON, say, where an escaped U+D800 makes half a character that no file and no database takes.
        longest: Characters that it may have.
    """
    if longest is not None and len(text) > longest:
        return f"{len(text):,} characters; at most {longest:,} are taken"
    half = _HALF.search(text)
    if half is not None:
        return f"not valid Unicode: half a character (U+{ord(half[0]):04X}) at offset {half.start()}"
    return None


def clean_text(text: str) -> str:
    """`text` without control characters, which no prose has and a terminal obeys.

    Tabs stay, and line ends of every kind, as line feeds.
    """
    return text.replace("\r\n", "\n").translate(_CLEAN)


def spreadsheet_text(text: str) -> str:
    """`text` as a clean CSV cell that no spreadsheet runs: one that begins like a formula stands after a `'`."""
    text = clean_text(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\n")) else text

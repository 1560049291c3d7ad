"""What counts as text: the one rule for what models answer, files hold and releases bring in."""

import re

_SURROGATE = re.compile(r"[\ud800-\udfff]")
_CONTROLS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0))} | {
    9: "\t",
    10: "\n",
    13: "\n",
    0x85: "\n",
}


def text_fault(text: str, longest: int | None = None) -> str | None:
    """Why `text` can be stored nowhere; None where it can.

    Args:
        text: From JSON, say, where `"\\ud800"` makes half a character that no file and no database takes.
        longest: Characters that it may have.
    """
    if longest is not None and len(text) > longest:
        return f"{len(text):,} characters; at most {longest:,} are taken"
    half = _SURROGATE.search(text)
    if half is not None:
        return f"not valid Unicode: half a character (U+{ord(half[0]):04X}) at offset {half.start()}"
    return None


def clean_text(text: str) -> str:
    """`text` without control characters, which no prose has and a terminal obeys; tabs and line ends stay.

    Every kind of line end becomes `\\n`.
    """
    return text.replace("\r\n", "\n").translate(_CONTROLS)

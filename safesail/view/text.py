"""Strangers' texts on a page: what would steer a reader's eye or browser is spelled out. Pure."""

import re
from typing import Any

from markupsafe import Markup

_HIDDEN = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls; tab and line feed stay
    "\u00ad\u061c\u180e\u200b\u200e\u200f"  # soft hyphen, marks of direction, blanks without width
    "\u2028-\u202e\u2060-\u206f"  # line separators, embeddings, overrides, isolates
    "\ufeff\ufff9-\ufffb"
    "\ud800-\udfff"  # halves of characters
    "\U000e0000-\U000e007f"  # tags: text that no screen shows
    "]"
)


def visible(text: str) -> str:
    r"""`text` with control characters, marks of direction and invisible ones spelled as `\u202e`.

    The joiners of emoji and of Indic and Arabic scripts stay: without them those are other texts.
    """
    return _HIDDEN.sub(lambda match: _spelled(ord(match[0])), text.replace("\r\n", "\n"))


def _spelled(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def finalized(shown: Any) -> Any:
    """What a template prints: texts made visible, unknown values as a dash, markup of our own as it is."""
    if shown is None:
        return "–"
    if isinstance(shown, Markup) or not isinstance(shown, str):
        return shown
    return visible(shown)


def token_text(token: str) -> str:
    """A token on a page: line ends are seen, and break the line."""
    return visible(token).replace("\n", "⏎\n").replace("\t", "⇥\t")


def figure(number: float | None, digits: int = 3) -> str:
    """A number as people read it, with a true minus sign; a dash where unknown."""
    if number is None:
        return "–"
    if number and abs(number) < 10**-digits:
        return f"{number:.1e}".replace("-", "−")
    return f"{number:,.{digits}f}".replace("-", "−")


def significant(number: float | None, digits: int = 3) -> str:
    """A number of any size to so many significant digits."""
    return "–" if number is None else f"{number:.{digits}g}".replace("-", "−")


def count(number: int | None) -> str:
    """A count with thousands apart."""
    return "–" if number is None else f"{number:,}"

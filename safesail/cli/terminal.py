"""The one writer between Safe-SAIL and a terminal: no text of a stranger reaches it as anything but text."""

import io
import re
import sys
from typing import TextIO

from safesail.domain.text import clean_text

_BIDI = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_REMOVED: dict[int, str | None] = dict.fromkeys(_BIDI) | dict.fromkeys(range(0xD800, 0xE000), "\ufffd")
_ESCAPED = re.compile("[\x7f-\x9f" + "".join(map(chr, _BIDI)) + "\ud800-\udfff]")


def clean(text: str) -> str:
    """`text` without what a terminal obeys: control characters but newline and tab, and marks of direction.

    Of an escape sequence the printable rest stays, as text; half a character becomes U+FFFD.
    """
    return clean_text(text).translate(_REMOVED)


def escape_json(document: str) -> str:
    r"""A JSON document of the same value in which what a terminal obeys is written as `\u...`."""
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", document)


class CleanStream(io.TextIOBase):
    """Standard output or error, cleaned. It shows no `buffer`: click and others would write past it."""

    def __init__(self, stream: TextIO, *, progress: bool = False) -> None:
        self.styled = stream
        """The stream itself, for what is styled by us, its text cleaned before."""
        self._progress = progress
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")

    def write(self, text: str, /) -> int:
        """Write it cleaned. With `progress` a carriage return that begins it stays: tqdm redraws its bar so."""
        start = "\r" if self._progress and text.startswith("\r") else ""
        self.styled.write(start + clean(text[len(start) :]))
        return len(text)

    def flush(self) -> None:
        """Flush the stream itself."""
        self.styled.flush()

    def fileno(self) -> int:
        """The stream's own."""
        return self.styled.fileno()

    def isatty(self) -> bool:
        """Whether a person is looking."""
        return self.styled.isatty()

    def writable(self) -> bool:
        """Yes."""
        return True

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride] io has it as a variable
        """The stream's own."""
        return self.styled.encoding


def guard_streams() -> None:
    """From here on all that this process prints is cleaned: results, errors, warnings, logs, progress."""
    sys.stdout = CleanStream(sys.stdout)
    sys.stderr = CleanStream(sys.stderr, progress=True)

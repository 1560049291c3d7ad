"""How the built-in models see a text: as words, with the marks that an explain prompt puts on them."""

import re
from dataclasses import dataclass

_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*|\S")
_MARK = re.compile(r"<<(.+?)(?:\|(\d+))?>>")

_SUFFIXES = {
    **dict.fromkeys(("ations", "ation", "ments", "ment", "ingly", "edly", "ings", "ers", "ies", "ied", "er", "ly"), 4),
    **dict.fromkeys(("ing", "ed", "es", "y", "e", "s"), 3),
}  # fmt: skip
"""Endings cut off, the first that fits, and how many letters must be left."""

_BY_LENGTH = sorted(_SUFFIXES, key=len, reverse=True)

_COMMON = """
    the of and to in a is that it was for on are as with his they be at one have this from had by not but what all
    were when we there can an your which their said if do into people time water make like him two more go no way
    could my than first been call who its now find long down day did get come made may part
"""
COMMON = tuple(_COMMON.split())
"""The commonest English words."""


@dataclass(frozen=True)
class Word:
    """A run of letters and digits, or one other character, and where it stands in its text."""

    text: str
    start: int
    stop: int


def split_words(text: str) -> list[Word]:
    """Words of `text` in order, spaces left out."""
    return [Word(match.group(), *match.span()) for match in _WORD.finditer(text)]


@dataclass(frozen=True)
class MarkedText:
    """A text of a prompt as words, each with the strongest mark on it."""

    words: tuple[str, ...]
    strength: tuple[int, ...]
    """0 where there is no mark; 1 where a mark names no strength."""


def read_marked(line: str) -> MarkedText:
    """Undo the marks of one line, `<<token|strength>>` or `<<token>>`."""
    text, last = "", 0
    spans: list[tuple[int, int, int]] = []
    for mark in _MARK.finditer(line):
        text += line[last : mark.start()]
        spans.append((len(text), len(text) + len(mark[1]), int(mark[2] or 1)))
        text += mark[1]
        last = mark.end()
    words = split_words(text + line[last:])
    strength = [max((s for a, b, s in spans if a < w.stop and b > w.start), default=0) for w in words]
    return MarkedText(tuple(w.text for w in words), tuple(strength))


def stem(word: str) -> str:
    """What inflected forms of a word share, roughly: `attacks`, `attacked` and `attackers` give `attack`."""
    text = word.lower().replace("’", "'").removesuffix("'s")
    for suffix in _BY_LENGTH:
        if text.endswith(suffix) and len(text) - len(suffix) >= _SUFFIXES[suffix]:
            return text.removesuffix(suffix)
    return text

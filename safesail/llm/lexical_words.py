"""How the built-in model sees a text: words, and signs at each word that a feature may go by."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from safesail.llm.lexicon import GRAMMAR, KINDS

SignType = Literal[
    "word", "kind", "shape", "ending", "after", "two after", "after kind", "after shape", "text about"
]
Sign = tuple[SignType, str]
"""Something that holds at a word: what it is, what kind it is of, what stands before it."""

_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*|\S")
_MARK = re.compile(r"<<(.+?)(?:\|(\d+))?>>")
_SENTENCE_ENDS = frozenset('.?!:"“”‘«»…')
_ENDINGS = ("ing", "ed", "ly", "ion", "ist")
_TOPIC_WORDS = 2
"""Earlier words of a kind that make a text one about it."""

_SUFFIXES = {
    **dict.fromkeys(("ations", "ation", "ments", "ment", "ingly", "edly", "ings", "ers", "ies", "ied", "er", "ly"), 4),
    **dict.fromkeys(("ing", "ed", "es", "y", "e", "s"), 3),
}  # fmt: skip
"""Endings cut off, the first that fits, and how many letters must be left."""

_BY_LENGTH = sorted(_SUFFIXES, key=len, reverse=True)


@dataclass(frozen=True)
class Word:
    """A run of letters and digits, or one other character, and where it stands in its text."""

    text: str
    start: int
    stop: int


def split_words(text: str) -> list[Word]:
    """Words of `text` in order, spaces left out."""
    return [Word(found.group(), *found.span()) for found in _WORD.finditer(text)]


@dataclass(frozen=True)
class Marked:
    """A text of a prompt as words, each with the strongest mark on it."""

    words: tuple[str, ...]
    strength: tuple[int, ...]
    """0 where there is no mark; 1 where a mark names no strength."""


def read_marked(line: str) -> Marked:
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
    return Marked(tuple(w.text for w in words), tuple(strength))


def stem(word: str) -> str:
    """What inflected forms of a word share, roughly: `attacks`, `attacked` and `attackers` give `attack`."""
    text = word.lower().replace("’", "'")
    text = text.removesuffix("'s")
    for suffix in _BY_LENGTH:
        if text.endswith(suffix) and len(text) - len(suffix) >= _SUFFIXES[suffix]:
            return text.removesuffix(suffix)
    return text


@cache
def kinds_of(word_stem: str) -> tuple[str, ...]:
    """Kinds of words that a stem belongs to."""
    return _kinds_by_stem().get(word_stem, ())


def signs(words: Sequence[str]) -> list[set[Sign]]:
    """What holds at each word of a text; only the words before it are looked at, as a causal model would."""
    stems = [stem(word) for word in words]
    found: list[set[Sign]] = []
    seen: dict[str, int] = {}
    for i, word in enumerate(words):
        here: set[Sign] = {("word", stems[i])}
        here.update(("kind", kind) for kind in kinds_of(stems[i]))
        here.update(("shape", shape) for shape in _shapes(words, i))
        here.update(("ending", end) for end in _ENDINGS if word.endswith(end) and len(word) > len(end) + 2)
        if i:
            here.add(("after", stems[i - 1]))
            here.update(("after kind", kind) for kind in kinds_of(stems[i - 1]))
            here.update(
                ("after shape", shape) for shape in _shapes(words, i - 1) & {"capitalised words", "numbers"}
            )
        if i > 1:
            here.add(("two after", stems[i - 2]))
        here.update(("text about", kind) for kind, n in seen.items() if n >= _TOPIC_WORDS)
        for kind in kinds_of(stems[i]):
            if kind not in GRAMMAR:
                seen[kind] = seen.get(kind, 0) + 1
        found.append(here)
    return found


SHAPES = (
    "numbers",
    "capitalised words",
    "first words of sentences",
    "first words of texts",
    "words in capitals",
    "punctuation",
    "Chinese or Japanese characters",
)
"""Names of what a word may look like."""


def _shapes(words: Sequence[str], i: int) -> set[str]:
    word = words[i]
    starts = i == 0 or words[i - 1] in _SENTENCE_ENDS
    capital = word[0].isupper()
    held = {
        "numbers": word[0].isdigit(),
        "capitalised words": capital and not starts,
        "first words of sentences": capital and starts,
        "first words of texts": i == 0,
        "words in capitals": len(word) > 1 and word.isupper(),
        "punctuation": not word[0].isalnum(),
        "Chinese or Japanese characters": "\u2e80" <= word[0] <= "\u9fff",
    }
    return {name for name, holds in held.items() if holds}


@cache
def _kinds_by_stem() -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for kind, members in KINDS.items():
        for member_stem in dict.fromkeys(map(stem, members.split())):
            found.setdefault(member_stem, []).append(kind)
    return {member_stem: tuple(kinds) for member_stem, kinds in found.items()}

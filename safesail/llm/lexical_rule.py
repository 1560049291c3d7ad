"""What the built-in model makes of an explanation: signs that it scores words by, written out and read again."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from safesail.llm.lexical_words import SHAPES, Sign, SignType, kinds_of, signs, stem
from safesail.llm.lexicon import GRAMMAR, KINDS

STRONG, WEAK = 1.0, 0.5
ACTIVE = 1.0
"""Score at which a word counts as active: one strong sign, or two weak ones that meet."""

_PREFIX_LETTERS = 5
"""Letters of a key that longer words may begin with."""

_PREFIXES: dict[SignType, str] = {
    "word": "",
    "kind": "words on ",
    "shape": "",
    "ending": "words ending in ",
    "after": "after ",
    "two after": "two after ",
    "after kind": "after words on ",
    "after shape": "after ",
    "text about": "in texts on ",
}
_QUOTED: frozenset[SignType] = frozenset({"word", "ending", "after", "two after"})
_STRONG_START, _WEAK_START = "Fires on ", "Weakly on "
_IN_QUOTES = re.compile(r"“([^”]+)”|\"([^\"]+)\"|(?<!\w)['‘]([^'’]+)['’](?!\w)")
_FOLLOWING = re.compile(r"\b(?:after|follow(?:s|ing)?|preceded by)\b[^“\"‘';,.]*$", re.I)
_PLAIN = re.compile(r"[^\W\d_]+(?:['’\-][^\W\d_]+)*")
_MADE_OF = """
    word words phrase phrases token tokens term terms text texts feature neuron fire fires firing activate
    activates activation active respond responds detect represent represents related relating relate reference
    references referring refer mention mentions mentioning instance instances occurrence indicate indicating
    indicates describe describing describes description particular specific specifically general common concept
    context contexts passage position else such including include often typically usually mainly mostly
    especially strongly various something letter letters used using use following follow follows before after
"""
_EMPTY = frozenset(stem(word) for word in _MADE_OF.split())
"""Words that explanations are made of, whatever they explain."""


_SHAPE_CUES = {
    "numbers": re.compile(r"\b(?:numbers?|digits?|integers?|numerals?)\b", re.I),
    "punctuation": re.compile(r"\bpunctuation\b", re.I),
    "capitalised words": re.compile(r"\b(?:capitali[sz]ed|proper nouns?|names?)\b", re.I),
}


@dataclass(frozen=True)
class Rule:
    """Signs with their weights; a word's score is the sum over the signs that hold at it."""

    weights: dict[Sign, float]

    def scores(self, words: Sequence[str]) -> list[float]:
        """Score of each word of a text, in order."""
        return [sum(self._weight(sign) for sign in here) for here in signs(words)]

    def _weight(self, sign: Sign) -> float:
        known = self.weights.get(sign)
        if known is None and sign[0] == "word":
            # `terror` is found in `terrorist` too.
            return max(
                (w for (of, key), w in self.weights.items()
                 if of == "word" and len(key) >= _PREFIX_LETTERS and sign[1].startswith(key)),
                default=0.0,
            )  # fmt: skip
        return known or 0.0


def write_rule(strong: Sequence[tuple[Sign, str]], weak: Sequence[tuple[Sign, str]], max_words: int) -> str:
    """An explanation out of signs and how they are shown, most important first, as many as fit into `max_words`."""
    kept: tuple[list[tuple[Sign, str]], list[tuple[Sign, str]]] = ([], [])
    text = ""
    for group, side in ((strong, 0), (weak, 1)):
        for item in group:
            kept[side].append(item)
            longer = _sentences(kept[0], kept[1])
            if len(longer.split()) > max_words:
                kept[side].pop()
                continue
            text = longer
    return text


def read_rule(explanation: str) -> Rule:
    """The signs in an explanation: in the built-in model's own words, or in anybody's."""
    own = _read_own(explanation)
    return Rule(own if own is not None else _read_any(explanation))


def _sentences(strong: Sequence[tuple[Sign, str]], weak: Sequence[tuple[Sign, str]]) -> str:
    parts = [
        f"{start}{'; '.join(_clauses(group))}."
        for start, group in ((_STRONG_START, strong), (_WEAK_START, weak))
        if group
    ]
    return " ".join(parts)


def _clauses(group: Sequence[tuple[Sign, str]]) -> list[str]:
    clauses: list[str] = []
    for kind, prefix in _PREFIXES.items():
        shown = [f"“{text}”" if kind in _QUOTED else text for (of, _), text in group if of == kind]
        if shown:
            clauses.append(prefix + ", ".join(shown))
    return clauses


def _read_own(explanation: str) -> dict[Sign, float] | None:
    """Signs by weight; None where the text is not one that `write_rule` writes."""
    sentences = re.fullmatch(rf"(?:{_STRONG_START}(.*?)\.)?(?: ?{_WEAK_START}(.*?)\.)?", explanation.strip())
    if sentences is None or not explanation.strip():
        return None
    weights: dict[Sign, float] = {}
    for body, weight in zip(sentences.groups(), (STRONG, WEAK), strict=True):
        # Quoted marks may be semicolons and commas themselves.
        for clause in re.findall(r"(?:“[^”]*”|[^;“])+", body or ""):
            found = _read_clause(clause.strip())
            if found is None:
                return None
            for sign in found:
                weights.setdefault(sign, weight)
    return weights


def _read_clause(clause: str) -> list[Sign] | None:
    for kind in sorted(_PREFIXES, key=lambda k: len(_PREFIXES[k]), reverse=True):
        prefix = _PREFIXES[kind]
        if not clause.startswith(prefix):
            continue
        rest = clause.removeprefix(prefix)
        if kind in _QUOTED:
            quoted = re.findall(r"“([^”]*)”", rest)
            if quoted and ", ".join(f"“{q}”" for q in quoted) == rest:
                return [(kind, q if kind == "ending" else stem(q)) for q in quoted]
            continue
        names = rest.split(", ")
        known = KINDS if kind in {"kind", "after kind", "text about"} else SHAPES
        if all(name in known for name in names):
            return [(kind, name) for name in names]
    return None


def _read_any(explanation: str) -> dict[Sign, float]:
    """Quoted words as keys, those after "following" as what stands before; content words by their kinds."""
    weights: dict[Sign, float] = {}
    for found in _IN_QUOTES.finditer(explanation):
        before = _FOLLOWING.search(explanation[: found.start()])
        for word in _PLAIN.findall(found.group()):
            weights["after" if before else "word", stem(word)] = STRONG
    rest = _IN_QUOTES.sub(" ", explanation)
    for word in _PLAIN.findall(rest):
        root = stem(word)
        kinds = kinds_of(root)
        if root in _EMPTY or GRAMMAR.intersection(kinds):
            continue
        weights.setdefault(("word", root), STRONG)
        for kind in kinds:
            weights.setdefault(("kind", kind), STRONG if root == stem(kind) else WEAK)
    for shape, cue in _SHAPE_CUES.items():
        if cue.search(rest):
            weights["shape", shape] = STRONG
    return weights

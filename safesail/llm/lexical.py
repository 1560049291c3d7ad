"""The built-in model: a table of words and their strengths, not a language model. It needs no key and no network.

It answers Safe-SAIL's own prompts from their text alone, so that the way of a call (prompt, budget, cache,
parser, score) is the one that a real endpoint's answers take. Its scores are a floor to beat.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from safesail.llm.builtin import BuiltinModel
from safesail.llm.builtin_prompts import BuiltinPrompt
from safesail.llm.words import COMMON, MarkedText, read_marked, stem

SignType = Literal["word", "after", "shape"]
Sign = tuple[SignType, str]
"""What a feature may go by at a word: the word's stem, that of the word before it, or what it looks like."""

_SIGN_WEIGHTS: dict[SignType, float] = {"word": 1.0, "after": 0.5, "shape": 0.5}
"""What two texts have in common, the word or less."""

_RIDGE, _REFIT = 2.0, 1.0
"""Penalties of the two regressions: all signs, then those kept. Chosen on features that the demo does not score."""

_N_SIGNS = 20
_STRENGTHS = (1, 2, 4, 7)
"""What strengths, of 10, are rounded to: few, since each takes room in an explanation."""

_LEAST = 0.05
"""Strength below which a sign is left out."""

_MAX_TAGS = 3
_PREFIX_LETTERS = 5
"""Letters of a stem that longer words may begin with: `terror` is found in `terrorist` too."""

_UNSAID = 0.6
"""Strength of a word that an explanation names without a number."""

_SENTENCE_ENDS = frozenset('.?!:"“”‘«»…')
_SHAPES = {
    "numbers": r"(?:numbers?|digits?|integers?|numerals?)",
    "punctuation": r"punctuation(?: marks?)?",
    "capitalised words": r"(?:capitali[sz]ed(?: words)?|proper nouns?|names?)",
    "first words of texts": r"first words? of (?:the |a )?texts?",
}
"""Names of what a word may look like, and how an explanation may say it."""

_PART = re.compile(
    r"“(?P<q1>[^”]+)”|\"(?P<q2>[^\"]+)\"|(?<!\w)['‘](?P<q3>[^'’]+)['’](?!\w)|\((?:strength )?(?P<strength>\d\d?)\)"
    r"|(?P<after>\b(?:after|follow(?:s|ing)?|preceded by)\b)|(?P<end>[;.])"
    + "".join(rf"|(?P<shape{i}>\b{cue}\b)" for i, cue in enumerate(_SHAPES.values()))
    + r"|(?P<plain>[^\W\d_]+(?:['’\-][^\W\d_]+)*)",
    re.I,
)
_WORDS = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*|\S")
_MADE_OF = """
    word words phrase phrases token tokens term terms text texts feature neuron fire fires firing activate
    activates activation active respond responds detect represent represents related relating relate reference
    references referring refer mention mentions mentioning instance instances occurrence indicate indicating
    indicates describe describing describes description particular specific specifically general common concept
    context contexts passage position else such including include often typically usually mainly mostly or these
    especially strongly weakly strength various something letter letters used using use before about so any some
"""
_EMPTY = frozenset(map(stem, (*COMMON, *_MADE_OF.split())))
"""Words that explanations are made of, whatever they explain."""


class LexicalModel(BuiltinModel):
    """Explains with the words that are marked most strongly, and simulates by looking words up."""

    active_segment = 0.15
    active_text = 0.3
    active_marks = 0.12

    def explain(self, asked: BuiltinPrompt) -> str:
        """The strongest signs with their strengths, in words."""
        form = asked.text.rsplit("\n", 1)[-1]
        if '{"explanation"' not in form:
            return self._explained(asked, asked)[0]
        said = [
            dict(zip(("explanation", "tags", "confidence"), self._explained(part, asked), strict=True))
            for part in asked.features
        ]
        several = {str(number): of for number, of in enumerate(said, 1)}
        return json.dumps(several if '{"1":' in form else said[0], ensure_ascii=False)

    def _explained(self, part: BuiltinPrompt, asked: BuiltinPrompt) -> tuple[str, list[str], float]:
        """Text, tags and confidence for one feature of a prompt."""
        silent = [line for line in part.between("silent").split("\n") if line]
        texts = [read_marked(line) for line in (*part.lines, *silent)]
        signs = [here for text in texts for here in _signs(text.words)]
        # Of 10; a score asks for ratings on the same scale.
        marks = np.array([s for text in texts for s in text.strength], float) / 10
        weights, confidence = _fit(signs, marks)
        max_words = re.search(r"at most (\d+) words", asked.text)
        text = _written(weights, _shown_forms(texts), int(max_words[1]) if max_words else 60)
        offered = re.search(r"^Tags, [^:\n]*: (.*)\.$", asked.text, re.MULTILINE)
        return text, _tags(weights, offered[1].split(", ") if offered else []), confidence

    def word_scores(self, explanation: str, texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """The sum of the strengths of the signs at each word, of the strongest one's."""
        weights = read_explanation(explanation)
        strongest = max(weights.values(), default=1.0)
        prefixes = {
            key: w for (of, key), w in weights.items() if of == "word" and len(key) >= _PREFIX_LETTERS
        }

        def strength(sign: Sign) -> float:
            if sign in weights or sign[0] != "word":
                return weights.get(sign, 0.0)
            return max((w for key, w in prefixes.items() if sign[1].startswith(key)), default=0.0)

        return [[sum(map(strength, here)) / strongest for here in _signs(words)] for words in texts]

    def likeness(self, texts: Sequence[MarkedText]) -> list[list[float]]:
        """Share of the signs at either's marked words that both have; words count more than what they look like."""
        marked = [
            {sign for here, s in zip(_signs(text.words), text.strength, strict=True) if s for sign in here}
            for text in texts
        ]

        def weight(signs: set[Sign]) -> float:
            return sum(_SIGN_WEIGHTS[kind] for kind, _ in signs)

        return [[weight(a & b) / max(1.0, weight(a | b)) for b in marked] for a in marked]

    def rating(self, score: float) -> int:
        """A score as a rating from 0 to 10: 8 for the strongest sign alone."""
        return min(10, round(8 * score))


def read_explanation(explanation: str) -> dict[Sign, float]:
    """Signs that an explanation names, the built-in model's own or anybody's, with their strengths from 0 to 1.

    Quoted words count, those behind "after" as what stands before, and plain words that say something. A number in
    brackets is the strength of all that is named since the last one.
    """
    weights: dict[Sign, float] = {}
    named: list[Sign] = []
    kind: SignType = "word"
    for part in _PART.finditer(explanation):
        group = part.lastgroup or ""
        if group == "strength":
            weights |= {sign: int(part["strength"]) / 10 for sign in named if sign not in weights}
            named = []
        elif group == "after":
            kind = "after"
        elif group == "end":
            kind = "word"
        elif group.startswith("shape"):
            named.append(("shape", list(_SHAPES)[int(group.removeprefix("shape"))]))
        elif group != "plain":
            named.extend((kind, stem(word)) for word in _WORDS.findall(part[group]))
        elif stem(part["plain"]) not in _EMPTY:
            named.append((kind, stem(part["plain"])))
    return dict.fromkeys(named, _UNSAID) | weights


def _signs(words: Sequence[str]) -> list[set[Sign]]:
    """What holds at each word of a text; only the word before it is looked at, as a causal model would."""
    stems = [stem(word) for word in words]
    signs: list[set[Sign]] = []
    for i, word in enumerate(words):
        starts = i == 0 or words[i - 1] in _SENTENCE_ENDS
        shapes = {
            "numbers": word[0].isdigit(),
            "punctuation": not word[0].isalnum(),
            "capitalised words": word[0].isupper() and not starts,
            "first words of texts": i == 0,
        }
        here: set[Sign] = {("word", stems[i])}
        here.update(("shape", shape) for shape, holds in shapes.items() if holds)
        if i:
            here.add(("after", stems[i - 1]))
        signs.append(here)
    return signs


def _fit(signs: Sequence[set[Sign]], marks: Float[np.ndarray, " n_words"]) -> tuple[dict[Sign, float], float]:
    """Strengths of the most telling signs, strongest first, and how well they fit: their correlation with the marks.

    Ridge regressions without a constant: over every sign that some mark carries, then over those kept.
    """
    carried: Counter[Sign] = Counter()
    for here, mark in zip(signs, marks.tolist(), strict=True):
        carried.update(dict.fromkeys(here, mark))
    counts = Counter(sign for here in signs for sign in here)
    names = sorted(sign for sign, total in carried.items() if total > 0 and _sayable(sign, counts[sign]))
    column = {sign: j for j, sign in enumerate(names)}
    x = np.zeros((len(signs), len(names)))
    for i, here in enumerate(signs):
        x[i, [column[sign] for sign in here if sign in column]] = 1.0
    weights = np.linalg.solve(x.T @ x + _RIDGE * np.eye(len(names)), x.T @ marks)
    importance = np.round(weights * np.sqrt(x.sum(axis=0)), 9)  # rounded: equal signs stay in order
    kept = np.argsort(-importance, kind="stable")[:_N_SIGNS]
    part = x[:, kept]
    refitted = np.linalg.solve(part.T @ part + _REFIT * np.eye(len(kept)), part.T @ marks)
    strengths = {names[j]: round(float(w), 9) for j, w in zip(kept.tolist(), refitted.tolist(), strict=True)}
    predicted = part @ refitted
    flat = np.ptp(predicted) == 0 or np.ptp(marks) == 0
    fit = 0.0 if flat else round(float(np.clip(np.corrcoef(predicted, marks)[0, 1], 0, 1)), 2)
    return dict(sorted(strengths.items(), key=lambda item: (-item[1], item[0]))), fit


def _sayable(sign: Sign, count: int) -> bool:
    """Whether a sign may stand in an explanation: what came before a word once is a coincidence."""
    return (sign[0] != "after" or count > 1) and sign[1] not in {"“", "”"}  # which cannot be quoted


def _written(weights: dict[Sign, float], forms: dict[str, str], max_words: int) -> str:
    """An explanation out of signs, strongest first, as many as fit into `max_words`; at least one."""
    strengths = {sign: min(_STRENGTHS, key=lambda s: abs(s - 10 * w)) for sign, w in weights.items()}
    said = [sign for sign, weight in weights.items() if weight >= _LEAST] or list(weights)[:1]
    while True:
        here = [sign for sign in said if sign[0] != "after"]
        before = [sign for sign in said if sign[0] == "after"]
        clauses = [_clause("on ", here, strengths, forms), _clause("after ", before, strengths, forms)]
        text = f"Fires {'; '.join(filter(None, clauses))}."
        if len(text.split()) <= max_words or len(said) == 1:
            return text
        said.pop()


def _clause(start: str, signs: Sequence[Sign], strengths: dict[Sign, int], forms: dict[str, str]) -> str:
    """Signs with the number behind the last one of each strength."""
    parts: list[str] = []
    for i, (kind, key) in enumerate(signs):
        strength = strengths[kind, key]
        last = i + 1 == len(signs) or strengths[signs[i + 1]] != strengths[kind, key]
        parts.append((key if kind == "shape" else f"“{forms.get(key, key)}”") + f" ({strength})" * last)
    return start + ", ".join(parts) if parts else ""


def _shown_forms(texts: Sequence[MarkedText]) -> dict[str, str]:
    """For each stem the form that the texts use most."""
    forms = Counter(word.lower() for text in texts for word in text.words)
    shown: dict[str, str] = {}
    for form, _ in forms.most_common():
        shown.setdefault(stem(form), form)
    return shown


def _tags(weights: dict[Sign, float], offered: Sequence[str]) -> list[str]:
    """Tags that share a word with what the explanation names."""
    stems = {key for kind, key in weights if kind == "word"}
    return [tag for tag in offered if stems.intersection(map(stem, tag.split("_")))][:_MAX_TAGS]

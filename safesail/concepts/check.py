"""Holds concept pairs to the rules of a contrast: the twins differ in the concept and in nothing else."""

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from safesail.concepts.config import CheckConfig
from safesail.concepts.read import SourcedConcept
from safesail.domain.records import ConceptPair

Severity = Literal["error", "warning"]
"""An error spoils the contrast, a warning weakens it."""

Length = Callable[[str], int]
"""Length of a text in a subject model's tokens."""

FORMS = ("statement", "question", "request", "news", "dialogue")

_CHARACTER_LANGS = ("zh", "ja")
"""Written without spaces: a word is a character here."""

_COMMON = frozenset(
    re.findall(
        r"\w+",
        "the a an of to in on at for and or but is are was were be been it its this that these those with by from as"
        " he she they we you i his her their our your my me him them who which what when where how why do does did"
        " has have had not no will would can could should may might must if than then so about into over after"
        " before up out more most all any some there one two new said says",
    )
)
"""English words that carry no concept."""


@dataclass(frozen=True)
class Fault:
    """A rule that a pair, or a whole concept, breaks."""

    severity: Severity
    source: str
    """File of the concept."""

    concept_id: str
    pair: int | None
    """Number of the pair in its file, from 1; None: the concept as a whole."""

    rule: str
    message: str

    def __str__(self) -> str:
        where = "" if self.pair is None else f", pair {self.pair}"
        return f"{self.severity}: {self.source}: {self.concept_id}{where}: {self.message}"


@dataclass(frozen=True)
class PairCount:
    """How many pairs there are of one kind."""

    domain: str
    leaf: str | None
    lang: str
    form: str
    concepts: int
    pairs: int


def check_concepts(
    concepts: Sequence[SourcedConcept], config: CheckConfig | None = None, *, length: Length | None = None
) -> list[Fault]:
    """Every fault of a concept set: an error spoils the contrast, a warning weakens it.

    Args:
        concepts: As `read_concepts` gives them.
        config: The rules' limits.
        length: Counts a subject model's tokens; without it words are counted.
    """
    rules = CheckConfig() if config is None else config
    faults: list[Fault] = []
    for concept in concepts:
        for number, pair in enumerate(concept.pairs, 1):
            faults += [
                Fault("error", concept.source, concept.concept_id, number, rule, message)
                for rule, message in _pair_faults(pair, concept, rules, length)
            ]
        faults += [
            Fault(severity, concept.source, concept.concept_id, None, rule, message)
            for severity, rule, message in _concept_faults(concept, rules, length)
        ]
    return faults + _duplicates(concepts)


def count_pairs(concepts: Sequence[SourcedConcept]) -> list[PairCount]:
    """Pairs by domain, leaf, language and form, sorted."""
    pairs: Counter[tuple[str, str, str, str]] = Counter()
    having: Counter[tuple[str, str, str, str]] = Counter()
    for concept in concepts:
        own = Counter((concept.domain, concept.leaf or "", p.lang, p.form) for p in concept.pairs)
        pairs.update(own)
        having.update(own.keys())
    return [
        PairCount(domain, leaf or None, lang, form, having[domain, leaf, lang, form], n)
        for (domain, leaf, lang, form), n in sorted(pairs.items())
    ]


def words(text: str, lang: str) -> list[str]:
    """Words of a text in lower case, without punctuation; single characters where no spaces are written."""
    if lang in _CHARACTER_LANGS:
        return [character for character in text.casefold() if character.isalnum()]
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.casefold())


def holds_keyword(text: str, keyword: str, lang: str) -> bool:
    """Whether a keyword stands in the text as a whole word; a trailing `*` takes any ending."""
    text, keyword = text.casefold(), keyword.casefold()
    if lang in _CHARACTER_LANGS:
        return keyword.rstrip("*") in text
    ending = "" if keyword.endswith("*") else r"(?!\w)"
    return re.search(rf"(?<!\w){re.escape(keyword.rstrip('*'))}{ending}", text) is not None


def marks_of(pair: ConceptPair) -> set[str]:
    """Words of q+ that q- lacks and that could carry a concept; none where words are single characters."""
    # A Chinese character is too small a unit to carry a concept; its key words are checked instead.
    if pair.lang in _CHARACTER_LANGS:
        return set()
    only_pos = set(words(pair.pos, pair.lang)) - set(words(pair.neg, pair.lang))
    return {word for word in only_pos if len(word) > 2 and word not in _COMMON}


def _pair_faults(
    pair: ConceptPair, concept: SourcedConcept, rules: CheckConfig, length: Length | None
) -> Iterator[tuple[str, str]]:
    pos, neg = words(pair.pos, pair.lang), words(pair.neg, pair.lang)
    if pos == neg:
        yield "equal", f"both sides say the same: {pair.pos}"
        return
    n_pos, n_neg = _lengths(pair, length)
    if max(n_pos, n_neg) > rules.max_length_ratio * min(n_pos, n_neg) + 1e-9:
        yield "length", f"lengths {n_pos} and {n_neg} differ by more than {rules.max_length_ratio:.2f} times"
    overlap = difflib.SequenceMatcher(None, pos, neg, autojunk=False).ratio()
    if overlap < rules.min_overlap:
        yield "overlap", f"the sides share {overlap:.2f} of their words, less than {rules.min_overlap:.2f}"
    if pair.pos[-1] != pair.neg[-1]:
        yield "ending", f"the sides end in {pair.pos[-1]!r} and {pair.neg[-1]!r}"
    for keyword in concept.keywords.get(pair.lang, ()):
        if holds_keyword(pair.neg, keyword, pair.lang):
            yield "keyword", f"key word {keyword!r} stands in neg: {pair.neg}"


def _lengths(pair: ConceptPair, length: Length | None) -> tuple[int, int]:
    if length is not None:
        return length(pair.pos), length(pair.neg)
    return len(words(pair.pos, pair.lang)), len(words(pair.neg, pair.lang))


def _concept_faults(
    concept: SourcedConcept, rules: CheckConfig, length: Length | None
) -> Iterator[tuple[Severity, str, str]]:
    lengths = [_lengths(pair, length) for pair in concept.pairs]
    n_pos, n_neg = (sum(side) for side in zip(*lengths, strict=True))
    if max(n_pos, n_neg) > (1 + rules.max_mean_length_gap) * min(n_pos, n_neg):
        yield "error", "mean-length", f"all pos together have {n_pos} words, all neg {n_neg}"
    for lang in sorted({pair.lang for pair in concept.pairs}):
        pairs = [pair for pair in concept.pairs if pair.lang == lang]
        if len(pairs) < rules.min_pairs:
            yield "warning", "few", f"only {len(pairs)} pairs in {lang!r}; intervals will be wide"
        if not concept.keywords.get(lang):
            yield "warning", "no-keywords", f"no key words for {lang!r}: they cannot be looked for in neg"
        if len(pairs) > 2:
            yield from _marking_words(pairs, rules)
    yield from _missing_forms(concept.pairs, rules)


def _missing_forms(pairs: Sequence[ConceptPair], rules: CheckConfig) -> Iterator[tuple[Severity, str, str]]:
    forms = Counter(pair.form for pair in pairs if pair.lang == "en")
    for form in FORMS if forms else ():
        if forms[form] < rules.min_per_form:
            yield "warning", "form", f"only {forms[form]} English pairs of form {form!r}"


def _marking_words(pairs: Sequence[ConceptPair], rules: CheckConfig) -> Iterator[tuple[Severity, str, str]]:
    """Words that tell pos from neg in too many pairs: a feature of that word would pass for the concept."""
    marks = Counter(word for pair in pairs for word in marks_of(pair))
    for word, n in sorted(marks.items()):
        if n > rules.max_word_share * len(pairs):
            yield (
                "error",
                "one-word",
                f"the word {word!r} alone marks the concept in {n} of {len(pairs)} pairs",
            )


def _duplicates(concepts: Sequence[SourcedConcept]) -> list[Fault]:
    first: dict[str, str] = {}
    faults: list[Fault] = []
    for concept in concepts:
        for number, pair in enumerate(concept.pairs, 1):
            for side, text in (("pos", pair.pos), ("neg", pair.neg)):
                here = f"{side} of {concept.concept_id}, pair {number}"
                before = first.setdefault(" ".join(words(text, pair.lang)), here)
                if before != here:
                    message = f"{side} is also the {before}: {text}"
                    faults.append(
                        Fault("error", concept.source, concept.concept_id, number, "duplicate", message)
                    )
    return faults

"""Holds concept pairs to the rules of a contrast: the twins differ in the concept and in nothing else."""

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from safesail.concepts.config import CheckConfig
from safesail.concepts.read import FORMS, SourcedConcept
from safesail.domain.records import ConceptPair

Severity = Literal["error", "warning"]
"""An error spoils the contrast, a warning weakens it."""

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


def check_concepts(concepts: Sequence[SourcedConcept], config: CheckConfig | None = None) -> list[Fault]:
    """Every fault of a concept set: of each pair, of each concept, and texts that stand twice in any."""
    limits = CheckConfig() if config is None else config
    faults: list[Fault] = []
    for concept in concepts:
        for number, pair in enumerate(concept.pairs, 1):
            for rule, message in _pair_faults(pair, concept, limits):
                faults.append(Fault("error", concept.source, concept.concept_id, number, rule, message))
        for severity, rule, message in _concept_faults(concept, limits):
            faults.append(Fault(severity, concept.source, concept.concept_id, None, rule, message))
    return [*faults, *_duplicates(concepts)]


def count_pairs(concepts: Sequence[SourcedConcept]) -> list[dict[str, Any]]:
    """Concepts and pairs by domain, leaf, language and form: one record each, sorted."""
    pairs: Counter[tuple[str, str, str, str]] = Counter()
    having: Counter[tuple[str, str, str, str]] = Counter()
    for concept in concepts:
        own = Counter((concept.domain, concept.leaf or "", p.lang, p.form) for p in concept.pairs)
        pairs.update(own)
        having.update(own.keys())
    return [
        dict(zip(("domain", "leaf", "lang", "form"), kind, strict=True))
        | {"leaf": kind[1] or None, "concepts": having[kind], "pairs": n}
        for kind, n in sorted(pairs.items())
    ]


def words(text: str, lang: str) -> list[str]:
    """Words of a text in lower case, without punctuation; single characters where no spaces are written."""
    if lang in _CHARACTER_LANGS:
        return [character for character in text.casefold() if character.isalnum()]
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.casefold())


def has_keyword(text: str, keyword: str, lang: str) -> bool:
    """Whether the text has the keyword as a whole word; a trailing `*` allows any ending."""
    text, keyword = text.casefold(), keyword.casefold()
    if lang in _CHARACTER_LANGS:
        return keyword.rstrip("*") in text
    ending = "" if keyword.endswith("*") else r"(?!\w)"
    return re.search(rf"(?<!\w){re.escape(keyword.rstrip('*'))}{ending}", text) is not None


def marker_words(pair: ConceptPair) -> set[str]:
    """Words of q+ that q- lacks and that could carry a concept; none where words are single characters."""
    # A Chinese character is too small a unit to carry a concept; its key words are checked instead.
    if pair.lang in _CHARACTER_LANGS:
        return set()
    only_pos = set(words(pair.pos, pair.lang)) - set(words(pair.neg, pair.lang))
    return {word for word in only_pos if len(word) > 2 and word not in _COMMON}


def _pair_faults(
    pair: ConceptPair, concept: SourcedConcept, limits: CheckConfig
) -> Iterator[tuple[str, str]]:
    pos, neg = words(pair.pos, pair.lang), words(pair.neg, pair.lang)
    if pos == neg:
        yield "equal", f"both sides say the same: {pair.pos}"
        return
    longer, shorter = max(len(pos), len(neg)), min(len(pos), len(neg))
    if longer > limits.max_length_ratio * shorter + 1e-9:
        yield (
            "length",
            f"lengths {len(pos)} and {len(neg)} differ by more than {limits.max_length_ratio:.2f} times",
        )
    overlap = difflib.SequenceMatcher(None, pos, neg, autojunk=False).ratio()
    if overlap < limits.min_overlap:
        yield "overlap", f"the sides share {overlap:.2f} of their words, less than {limits.min_overlap:.2f}"
    if pair.pos[-1] != pair.neg[-1]:
        yield "ending", f"the sides end in {pair.pos[-1]!r} and {pair.neg[-1]!r}"
    for keyword in concept.keywords.get(pair.lang, ()):
        if has_keyword(pair.neg, keyword, pair.lang):
            yield "keyword", f"key word {keyword!r} stands in neg: {pair.neg}"


def _concept_faults(concept: SourcedConcept, limits: CheckConfig) -> Iterator[tuple[Severity, str, str]]:
    n_pos = sum(len(words(pair.pos, pair.lang)) for pair in concept.pairs)
    n_neg = sum(len(words(pair.neg, pair.lang)) for pair in concept.pairs)
    if max(n_pos, n_neg) > (1 + limits.max_mean_length_gap) * min(n_pos, n_neg):
        yield "error", "mean-length", f"all pos together have {n_pos} words, all neg {n_neg}"
    for lang in sorted({pair.lang for pair in concept.pairs}):
        pairs = [pair for pair in concept.pairs if pair.lang == lang]
        if len(pairs) < limits.min_pairs:
            yield "warning", "few", f"only {len(pairs)} pairs in {lang!r}; intervals will be wide"
        if not concept.keywords.get(lang):
            yield "warning", "no-keywords", f"no key words for {lang!r}: they cannot be looked for in neg"
        if len(pairs) > 2:
            yield from _overused_words(pairs, limits)
    forms = Counter(pair.form for pair in concept.pairs if pair.lang == "en")
    for form in FORMS if forms else ():
        if forms[form] < limits.min_per_form:
            yield "warning", "form", f"only {forms[form]} English pairs of form {form!r}"


def _overused_words(pairs: Sequence[ConceptPair], limits: CheckConfig) -> Iterator[tuple[Severity, str, str]]:
    """Words that tell pos from neg in too many pairs: a feature of that word would pass for the concept."""
    counts = Counter(word for pair in pairs for word in marker_words(pair))
    for word, n in sorted(counts.items()):
        if n > limits.max_word_share * len(pairs):
            message = f"the word {word!r} alone marks the concept in {n} of {len(pairs)} pairs"
            yield "error", "one-word", message


def _duplicates(concepts: Sequence[SourcedConcept]) -> Iterator[Fault]:
    first: dict[str, str] = {}
    for concept in concepts:
        for number, pair in enumerate(concept.pairs, 1):
            for side, text in (("pos", pair.pos), ("neg", pair.neg)):
                here = f"{side} of {concept.concept_id}, pair {number}"
                before = first.setdefault(" ".join(words(text, pair.lang)), here)
                if before != here:
                    message = f"{side} is also the {before}: {text}"
                    yield Fault("error", concept.source, concept.concept_id, number, "duplicate", message)

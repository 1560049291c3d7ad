"""A concept whose pairs are being written: what is kept of an answer, and what is asked for next. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from safesail.concepts.check import Fault, check_concepts, has_keyword, marker_words, words
from safesail.concepts.read import FORMS, SourcedConcept, pair_id
from safesail.domain.records import ConceptPair
from safesail.prompting.parse import ParsedPairs


@dataclass
class Draft:
    """A concept with the pairs kept so far, each held to the rules of `check`."""

    concept: SourcedConcept
    """With the user's key words, and those of the model that its own pairs bear out."""

    lang: str
    n: int
    """Pairs to be written."""

    rejected: Counter[str] = field(default_factory=Counter[str])
    """Pairs that were not kept, by the rule they broke; whole answers by the class of their error."""

    @property
    def pairs(self) -> tuple[ConceptPair, ...]:
        """Kept so far."""
        return self.concept.pairs

    @property
    def complete(self) -> bool:
        """Whether there are as many pairs as were asked for."""
        return len(self.pairs) >= self.n

    def next_forms(self, n: int) -> dict[str, int]:
        """Forms of the next `n` pairs, those that are rarest so far first."""
        kept = Counter(pair.form for pair in self.pairs)
        chosen: Counter[str] = Counter()
        for _ in range(n):
            chosen[min(FORMS, key=lambda form: kept[form] + chosen[form])] += 1
        return {form: chosen[form] for form in FORMS if chosen[form]}

    def overused(self, share: float) -> list[str]:
        """Words that mark more than this share of the pairs to be written, the commonest first."""
        counts = Counter(word for pair in self.pairs for word in marker_words(pair))
        return [word for word, count in counts.most_common() if count > share * self.n]

    def add(self, answer: ParsedPairs) -> None:
        """Keep what is good of an answer; a complete set is then held to the rules for the concept as a whole."""
        self.rejected["malformed"] += answer.malformed
        new = [
            ConceptPair(
                pair_id(self.concept.concept_id, self.lang, p.pos, p.neg), self.lang, p.form, p.pos, p.neg
            )
            for p in answer.pairs
        ]
        known = self.concept.keywords.get(self.lang, ())
        if keywords := tuple(dict.fromkeys((*known, *_borne_out(answer.keywords, new, self.lang)))):
            self.concept = replace(self.concept, keywords={**self.concept.keywords, self.lang: keywords})
        self._keep((*self.pairs, *new))
        # What repeats a pair that goes anyway repeats nothing: duplicates are looked for among the rest.
        self._drop({f.pair: f.rule for f in self._errors() if f.rule != "duplicate"})
        self._drop({f.pair: f.rule for f in self._errors()})
        if len(self.pairs) > self.n:
            self.rejected["surplus"] += len(self.pairs) - self.n
            self._keep(self.pairs[: self.n])
        if self.complete:
            self.trim()

    def trim(self) -> None:
        """Give up the pairs, last ones first, without which the concept as a whole passes."""
        while len(self.pairs) > 1 and (errors := self._errors()):
            number = self._costliest(errors[0])
            self.rejected[errors[0].rule] += 1
            self._keep(self.pairs[:number] + self.pairs[number + 1 :])

    def _keep(self, pairs: tuple[ConceptPair, ...]) -> None:
        self.concept = replace(self.concept, pairs=pairs)

    def _drop(self, broken: Mapping[int | None, str]) -> None:
        numbered = list(enumerate(self.pairs, 1))
        self.rejected.update(broken[number] for number, _ in numbered if number in broken)
        self._keep(tuple(pair for number, pair in numbered if number not in broken))

    def _errors(self) -> list[Fault]:
        return [f for f in check_concepts([self.concept]) if f.severity == "error"] if self.pairs else []

    def _costliest(self, fault: Fault) -> int:
        """The pair that goes for a fault of the whole concept."""
        if fault.pair is not None:
            return fault.pair - 1
        if fault.rule == "mean-length":
            gaps = [len(words(p.pos, p.lang)) - len(words(p.neg, p.lang)) for p in self.pairs]
            sign = 1 if sum(gaps) > 0 else -1
            return max(range(len(gaps)), key=lambda i: sign * gaps[i])
        (commonest, _), *_ = Counter(word for pair in self.pairs for word in marker_words(pair)).most_common(
            1
        )
        return max(i for i, pair in enumerate(self.pairs) if commonest in marker_words(pair))


def _borne_out(keywords: Sequence[str], pairs: Sequence[ConceptPair], lang: str) -> list[str]:
    """Those of a writer's key words that stand in more of its q+ than of its q-: others are not the concept's."""

    def count(keyword: str, side: Literal["pos", "neg"]) -> int:
        return sum(has_keyword(getattr(pair, side), keyword, lang) for pair in pairs)

    return [word for word in keywords if count(word, "pos") > count(word, "neg")]

"""A chat model writes contrast pairs; each is held to the rules of `check` before it is kept."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from safesail.concepts.check import FORMS, Fault, check_concepts, holds_keyword, marks_of, words
from safesail.concepts.config import CheckConfig, GenerateConfig
from safesail.concepts.read import SourcedConcept, pair_id
from safesail.domain.records import ConceptPair
from safesail.errors import BadAnswerError, BudgetExceededError
from safesail.llm.metered import MeteredClient
from safesail.llm.types import CallContext, LLMRequest
from safesail.prompting.parse import ParsedPairs, parse_pairs
from safesail.prompting.templates import load_template

STAGE = "concepts"
LANGUAGES = {"en": "English", "zh": "Chinese (简体中文)"}

Ended = Literal["complete", "budget", "no progress"]
"""Why the writing stopped."""


@dataclass
class Draft:
    """A concept whose pairs are being written. Pure: asks nobody."""

    concept: SourcedConcept
    """With the user's key words, and the pairs kept so far."""

    lang: str
    n: int
    """Pairs wanted."""

    rules: CheckConfig
    rejected: Counter[str] = field(default_factory=Counter[str])
    """Pairs that were not kept, by the rule they broke; whole answers by the class of their error."""

    @property
    def pairs(self) -> tuple[ConceptPair, ...]:
        """Kept so far."""
        return self.concept.pairs

    @property
    def complete(self) -> bool:
        """Whether all that are wanted are there."""
        return len(self.pairs) >= self.n

    def wanted_forms(self, n: int) -> dict[str, int]:
        """Forms of the next `n` pairs, those that are rarest so far first."""
        have = Counter(pair.form for pair in self.pairs)
        wanted: Counter[str] = Counter()
        for _ in range(n):
            wanted[min(FORMS, key=lambda form: have[form] + wanted[form])] += 1
        return {form: wanted[form] for form in FORMS if wanted[form]}

    def worn(self, share: float) -> list[str]:
        """Words that mark more than this share of the pairs wanted, the commonest first."""
        marks = Counter(word for pair in self.pairs for word in marks_of(pair))
        return [word for word, count in marks.most_common() if count > share * self.n]

    def take(self, answer: ParsedPairs) -> None:
        """Keep what is good of an answer; a complete set is then held to the rules for the concept as a whole."""
        self.rejected["malformed"] += answer.malformed
        new = [
            ConceptPair(
                pair_id(self.concept.concept_id, self.lang, p.pos, p.neg), self.lang, p.form, p.pos, p.neg
            )
            for p in answer.pairs
        ]
        known = self.concept.keywords.get(self.lang, ())
        keywords = dict.fromkeys((*known, *_proven(answer.keywords, new, self.lang)))
        self.concept = replace(
            self.concept,
            keywords={**self.concept.keywords, self.lang: tuple(keywords)}
            if keywords
            else self.concept.keywords,
            pairs=(*self.pairs, *new),
        )
        self._drop_faulty()
        if len(self.pairs) > self.n:
            self.rejected["surplus"] += len(self.pairs) - self.n
            self.concept = replace(self.concept, pairs=self.pairs[: self.n])
        if self.complete:
            self.settle()

    def settle(self) -> None:
        """Give up the pairs, last ones first, without which the concept as a whole passes."""
        while len(self.pairs) > 1 and (fault := next(self._errors(), None)) is not None:
            number = self._offender(fault)
            self.rejected[fault.rule] += 1
            self.concept = replace(self.concept, pairs=self.pairs[:number] + self.pairs[number + 1 :])

    def _drop_faulty(self) -> None:
        # What repeats a pair that goes anyway repeats nothing: duplicates are looked for among the rest.
        self._drop({f.pair: f.rule for f in self._errors() if f.rule != "duplicate"})
        self._drop({f.pair: f.rule for f in self._errors()})

    def _drop(self, broken: Mapping[int | None, str]) -> None:
        numbers = [number for number in range(1, len(self.pairs) + 1) if number in broken]
        self.rejected.update(broken[number] for number in numbers)
        kept = tuple(pair for number, pair in enumerate(self.pairs, 1) if number not in numbers)
        self.concept = replace(self.concept, pairs=kept)

    def _errors(self) -> Iterator[Fault]:
        if not self.pairs:
            return iter(())
        return (f for f in check_concepts([self.concept], self.rules) if f.severity == "error")

    def _offender(self, fault: Fault) -> int:
        """The pair that goes for a fault of the whole."""
        if fault.pair is not None:
            return fault.pair - 1
        gaps = [len(words(p.pos, p.lang)) - len(words(p.neg, p.lang)) for p in self.pairs]
        if fault.rule == "mean-length":
            sign = 1 if sum(gaps) > 0 else -1
            return max(range(len(gaps)), key=lambda i: sign * gaps[i])
        marks = Counter(word for pair in self.pairs for word in marks_of(pair))
        commonest = marks.most_common(1)[0][0]
        return max(i for i, pair in enumerate(self.pairs) if commonest in marks_of(pair))


@dataclass(frozen=True)
class Written:
    """What came of it."""

    draft: Draft
    ended: Ended
    calls: int
    """Answers asked for, those from the cache included."""


class PairWriter:
    """Asks one model, with one prompt, until a draft is complete."""

    def __init__(self, client: MeteredClient, model: str, config: GenerateConfig) -> None:
        self._client, self._model, self._config = client, model, config
        self._template = load_template(STAGE, config.template)

    @property
    def prompt_hash(self) -> str:
        """SHA-256 of the prompt template's text, in hex."""
        return self._template.prompt_hash

    def request(self, draft: Draft, sample: int) -> LLMRequest:
        """What is sent next; pure.

        Args:
            draft: What is kept so far.
            sample: Number of the call: the same question asked twice must not be answered from the cache.
        """
        n = min(self._config.per_call, draft.n - len(draft.pairs))
        forms = ", ".join(f"{count} {form}" for form, count in draft.wanted_forms(n).items())
        rendered = self._template.render(
            name=_line(draft.concept.name),
            definition=_line(draft.concept.definition),
            n=n,
            language=LANGUAGES.get(draft.lang, draft.lang),
            forms=forms,
            worn=draft.worn(self._config.worn_share),
            kept=[pair.pos for pair in draft.pairs[-self._config.n_shown :]] if self._config.n_shown else [],
        )
        return LLMRequest(
            model=self._model,
            endpoint=self._client.endpoint,
            system=rendered.system,
            prompt=rendered.prompt,
            temperature=self._config.temperature,
            max_tokens=self._config.tokens_per_pair * (n + 1),
            sample=sample,
        )

    async def write(self, draft: Draft, *, progress: Callable[[int], None]) -> Written:
        """Ask until the draft is complete, the budget ends or nothing more comes of it.

        A bad answer is counted in the draft; the same calls in another run come from the cache.

        Args:
            draft: Is filled.
            progress: Told the number of pairs kept, after every answer.

        Raises:
            LLMUnavailableError: the endpoint is dead; its answers so far are in the ledger.
            CacheMissError: replay was asked for and an answer is not in the cache.
        """
        limit = self._config.max_rounds * math.ceil(draft.n / self._config.per_call)
        fruitless = calls = 0
        ended: Ended = "complete"
        while not draft.complete:
            if fruitless == self._config.max_fruitless or calls == limit:
                ended = "no progress"
                break
            before = len(draft.pairs)
            try:
                await self._ask(draft, calls)
            except BudgetExceededError:
                ended = "budget"
                break
            calls += 1
            fruitless = 0 if len(draft.pairs) > before else fruitless + 1
            progress(len(draft.pairs))
        draft.settle()
        return Written(draft, ended, calls)

    async def _ask(self, draft: Draft, sample: int) -> None:
        context = CallContext(STAGE, self.prompt_hash)
        try:
            answered = await self._client.ask(self.request(draft, sample), context)
            draft.take(parse_pairs(answered.answer.text, forms=FORMS))
        except BadAnswerError as error:
            draft.rejected[type(error).__name__] += 1


def _proven(keywords: Sequence[str], pairs: Sequence[ConceptPair], lang: str) -> list[str]:
    """Those of a writer's key words that stand in more of its q+ than of its q-: others are not the concept's."""

    def count(keyword: str, side: Literal["pos", "neg"]) -> int:
        return sum(holds_keyword(getattr(pair, side), keyword, lang) for pair in pairs)

    return [word for word in keywords if count(word, "pos") > count(word, "neg")]


def _line(text: str) -> str:
    return " ".join(text.split())

"""What the built-in models have in common: they score words by an explanation, and answer Safe-SAIL's own prompts."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate, pairwise

from safesail.llm.builtin_prompts import (
    ENDPOINT,
    BuiltinPrompt,
    billed,
    letters,
    prompt_tokens,
    read_prompt,
    write_choices,
    write_names,
    write_pooled,
    write_ratings,
    write_segments,
)
from safesail.llm.types import LLMAnswer, LLMRequest
from safesail.llm.words import MarkedText, read_marked, split_words


class BuiltinModel(ABC):
    """Answers prompts by rule, from their text alone; the same prompt always has the same answer."""

    active_segment: float
    """Score from which a segment counts as active."""

    active_text: float
    """The same for the best word of a whole text."""

    active_marks: float
    """The same for the marked words of a text, on average."""

    @property
    def endpoint(self) -> str:
        """Where answers come from."""
        return ENDPOINT

    def worst_case(self, request: LLMRequest) -> int:
        """Upper bound of the tokens billed for one attempt: all of the prompt and the longest answer."""
        return prompt_tokens(request) + request.max_tokens

    async def complete(self, request: LLMRequest) -> LLMAnswer:
        """Answer by rule.

        Raises:
            RefusedAnswerError: the prompt is none of Safe-SAIL's, or asks for what this model cannot do.
        """
        return billed(self.answer(request.prompt), request)

    def answer(self, prompt: str) -> str:
        """The answer to a prompt.

        Raises:
            RefusedAnswerError: as `complete`.
        """
        asked = read_prompt(prompt)
        match asked.block:
            case "active":
                return self.explain(asked)
            case "tokens":
                return self._rate_tokens(asked)
            case "segments":
                return self._rate_pool(asked) if asked.explanations else self._rate_segments(asked)
            case "texts":
                return self._choose_texts(asked)
            case "marked":
                return self._judge_marks(asked)
            case "groups":
                return self._find_intruders(asked)

    @abstractmethod
    def explain(self, asked: BuiltinPrompt) -> str:
        """The answer to a prompt that asks for an explanation."""

    @abstractmethod
    def word_scores(self, explanation: str, texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """A score for each word of each text: how strongly a feature so explained fires on it."""

    @abstractmethod
    def likeness(self, texts: Sequence[MarkedText]) -> list[list[float]]:
        """How alike any two texts are at their marked words."""

    @abstractmethod
    def rating(self, score: float) -> int:
        """A score as a rating from 0 to 10."""

    def segment_scores(self, explanation: str, texts: Sequence[Sequence[str]]) -> list[float]:
        """A score for each segment of all texts: its best word's. Words see those of earlier segments."""
        words = [[words_of(segment) for segment in segments] for segments in texts]
        scored = self.word_scores(explanation, [[w for words in text for w in words] for text in words])
        return [
            max(part, default=0.0)
            for text, scores in zip(words, scored, strict=True)
            for part in split_like(scores, text)
        ]

    def _rate_tokens(self, asked: BuiltinPrompt) -> str:
        """Every token has the rating of the best word that it is part of."""
        tokens = asked.tokens
        words = split_words("".join(tokens))
        (scores,) = self.word_scores(asked.explanation, [[word.text for word in words]])
        ends = accumulate(map(len, tokens), initial=0)
        ratings = [
            max(
                (s for w, s in zip(words, scores, strict=True) if w.start < stop and w.stop > start),
                default=0.0,
            )
            for start, stop in pairwise(ends)
        ]
        return write_ratings(tokens, [self.rating(score) for score in ratings])

    def _rate_segments(self, asked: BuiltinPrompt) -> str:
        texts = list(asked.segments.values())
        scores = self.segment_scores(asked.explanation, texts)
        chosen = _chosen(scores, self.active_segment, must=len(texts) > 1)
        return write_segments(asked, {i: max(1, self.rating(scores[i])) for i in chosen})

    def _rate_pool(self, asked: BuiltinPrompt) -> str:
        texts = list(asked.segments.values())
        grades: list[dict[int, int]] = []
        for explanation in asked.explanations:
            scores = self.segment_scores(explanation, texts)
            chosen = _chosen(scores, self.active_segment, must=True)
            grades.append({i: max(1, self.rating(scores[i])) for i in chosen})
        return write_pooled(asked, grades)

    def _choose_texts(self, asked: BuiltinPrompt) -> str:
        texts = asked.texts
        scored = self.word_scores(asked.explanation, [words_of(text) for text in texts])
        best = [max(scores, default=0.0) for scores in scored]
        return write_names(letters(len(texts)), _chosen(best, self.active_text, must=len(texts) > 1))

    def _judge_marks(self, asked: BuiltinPrompt) -> str:
        texts = [read_marked(line) for line in asked.texts]
        scored = self.word_scores(asked.explanation, [text.words for text in texts])
        means: list[float] = []
        for text, scores in zip(texts, scored, strict=True):
            marked = [score for score, strength in zip(scores, text.strength, strict=True) if strength]
            means.append(sum(marked) / len(marked) if marked else 0.0)
        return write_names(letters(len(texts)), _chosen(means, self.active_marks, must=len(texts) > 1))

    def _find_intruders(self, asked: BuiltinPrompt) -> str:
        """The text of each group that is least like the others; the first of equals."""
        chosen: list[int] = []
        for group in asked.groups:
            likenesses = self.likeness([read_marked(line) for line in group])
            sums = [sum(row) - row[i] for i, row in enumerate(likenesses)]
            chosen.append(min(range(len(sums)), key=sums.__getitem__))
        return write_choices(chosen)


def words_of(text: str) -> list[str]:
    """Words of `text` in order."""
    return [word.text for word in split_words(text)]


def split_like(values: Sequence[float], parts: Sequence[Sequence[str]]) -> list[list[float]]:
    """Values of all items of `parts`, in order, as those of each part."""
    ends = accumulate(map(len, parts), initial=0)
    return [list(values[start:stop]) for start, stop in pairwise(ends)]


def _chosen(scores: Sequence[float], threshold: float, *, must: bool) -> list[int]:
    """Indices of what reaches `threshold`; where nothing does and something `must`, of what comes nearest.

    Of several texts some must: they were picked to tell a feature from its controls, and a constant says nothing.
    """
    reached = [i for i, score in enumerate(scores) if score >= threshold]
    best = max(scores, default=0.0)
    if reached or not must:
        return reached
    return [i for i, score in enumerate(scores) if score == best] if best > 0 else [0]

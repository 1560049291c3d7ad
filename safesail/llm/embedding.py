"""The built-in simulator that goes by meaning: units of a prompt rated by their likeness to its explanation.

It answers from the prompt alone, like the lexical one, and bills as that does. It cannot explain. Likeness is
the cosine of sentence vectors, made by a function handed in, since this package runs without torch.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from safesail.errors import RefusedAnswerError
from safesail.llm.builtin_prompts import (
    ENDPOINT,
    BuiltinPrompt,
    billed,
    letters,
    prompt_tokens,
    read_prompt,
    write_names,
    write_ratings,
    write_segments,
)
from safesail.llm.lexical_words import read_marked, split_words
from safesail.llm.types import LLMAnswer, LLMRequest

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Vectors of length 1, one a row, of texts."""

ACTIVE = 6.0
"""Likeness at which a segment counts as active. This and the next were set on windows of the training split."""

_ZERO, _FULL = 4.0, 16.0
"""Likeness that is rated 0, and that is rated 10."""

_ACTIVE_TEXT, _ACTIVE_MARKS = 8.0, 2.0
"""The same for the best word of a whole text, and for its marked words on average."""

_BEFORE = 2
"""Words before a word that are read with it."""

_KEPT = 64
"""Sets of units whose vectors are kept: other explanations are tested on the same ones."""

_ORDINARY = """
    the of and to in a is that it was for on are as with his they be at one have this from had by not but what all
    were when we there can an your which their said if do into people time water make like him two more go no way
    could my than first been call who its now find long down day did get come made may part
"""
"""The commonest English words: how alike these are to a phrase says what likeness means for it."""

_MADE_OF = re.compile(
    r"\b(?:Fires on|Weakly on|words on|in texts on|after words on|two after|words ending in|after)\b"
)
_BREAK = re.compile(r"[;,.“”\"]|\b(?:and|or|such as|including|e\.g)\b")


class EmbeddingModel:
    """Answers simulation prompts by likeness of meaning."""

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self._ordinary = embed(_ORDINARY.split())
        self._kept: dict[tuple[str, ...], NDArray[np.float32]] = {}

    @property
    def endpoint(self) -> str:
        """Where answers come from."""
        return ENDPOINT

    def worst_case(self, request: LLMRequest) -> int:
        """Upper bound of the tokens billed for one attempt: all of the prompt and the longest answer."""
        return prompt_tokens(request) + request.max_tokens

    async def complete(self, request: LLMRequest) -> LLMAnswer:
        """Answer by likeness; the same prompt always has the same answer.

        Raises:
            RefusedAnswerError: the prompt is none of Safe-SAIL's, or asks for an explanation.
        """
        return billed(self.answer(request.prompt), request)

    def answer(self, prompt: str) -> str:
        """The answer to a prompt.

        Raises:
            RefusedAnswerError: as `complete`.
        """
        asked = read_prompt(prompt)
        match asked.block:
            case "tokens":
                return self._rate_tokens(asked)
            case "segments":
                return self._choose_segments(asked)
            case "texts":
                return self._choose_texts(asked)
            case "marked":
                return self._judge_marks(asked)
            case "active":
                raise RefusedAnswerError("the model 'embedding' cannot explain; name another explainer")

    def _rate_tokens(self, asked: BuiltinPrompt) -> str:
        """Every token has the rating of the best word that it is part of."""
        tokens = asked.tokens
        words = split_words("".join(tokens))
        scores = self._word_scores(asked.explanation, [[word.text for word in words]])[0]
        ratings: list[int] = []
        start = 0
        for token in tokens:
            stop = start + len(token)
            here = [s for w, s in zip(words, scores, strict=True) if w.start < stop and w.stop > start]
            ratings.append(_rating(max(here, default=0.0)))
            start = stop
        return write_ratings(tokens, ratings)

    def _choose_segments(self, asked: BuiltinPrompt) -> str:
        texts = asked.segments
        contents = [segment for segments in texts.values() for segment in segments]
        words = [[word.text for word in split_words(content)] for content in contents]
        alone = self._likeness(asked.explanation, [word for of in words for word in of])
        best = [max(scores, default=0.0) for scores in _cut(alone, words)]
        scores = (np.array(best) + self._likeness(asked.explanation, contents)) / 2
        chosen = _chosen(scores.tolist(), ACTIVE, must=len(texts) > 1)
        return write_segments(asked, {i: max(1, _rating(float(scores[i]))) for i in chosen})

    def _choose_texts(self, asked: BuiltinPrompt) -> str:
        texts = [[word.text for word in split_words(text)] for text in asked.texts]
        scores = [max(of, default=0.0) for of in self._word_scores(asked.explanation, texts)]
        return write_names(letters(len(texts)), _chosen(scores, _ACTIVE_TEXT, must=len(texts) > 1))

    def _judge_marks(self, asked: BuiltinPrompt) -> str:
        """Marks are right where the words that carry them are alike on average."""
        texts = [read_marked(line) for line in asked.texts]
        scored = self._word_scores(asked.explanation, [text.words for text in texts])
        scores: list[float] = []
        for text, of in zip(texts, scored, strict=True):
            carried = [score for score, strength in zip(of, text.strength, strict=True) if strength]
            scores.append(sum(carried) / len(carried) if carried else 0.0)
        return write_names(letters(len(texts)), _chosen(scores, _ACTIVE_MARKS, must=len(texts) > 1))

    def _word_scores(self, explanation: str, texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """Likeness of every word, alone and with those before it, averaged."""
        alone = [word for words in texts for word in words]
        with_before = [
            " ".join(words[max(0, i - _BEFORE) : i + 1]) for words in texts for i in range(len(words))
        ]
        scores = (self._likeness(explanation, alone) + self._likeness(explanation, with_before)) / 2
        return _cut(scores, texts)

    def _likeness(self, explanation: str, units: Sequence[str]) -> Float[np.ndarray, " n"]:
        """How alike each unit is to the whole explanation, and to its phrase that is most like the unit, summed.

        Each in deviations above the mean likeness of ordinary words: what is high differs from phrase to phrase.
        """
        if not explanation.strip():
            return np.zeros(len(units))
        vectors = self._vectors(units)
        keys = self._vectors([explanation, *phrases_of(explanation)])
        usual = self._ordinary @ keys.T
        standard = (vectors @ keys.T - usual.mean(0)) / np.maximum(usual.std(0), 0.01)
        return standard[:, 0] + standard[:, 1:].max(1)

    def _vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of exactly these texts: they depend on this prompt alone, not on what was asked before."""
        key = tuple(texts)
        if key not in self._kept:
            distinct = list(dict.fromkeys(texts))
            place = {text: i for i, text in enumerate(distinct)}
            if len(self._kept) >= _KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = self._embed(distinct)[[place[text] for text in texts]]
        return self._kept[key]


def phrases_of(explanation: str) -> list[str]:
    """What an explanation names: its quoted words and the parts of its sentences, at least one."""
    parts = [part.strip() for part in _BREAK.split(_MADE_OF.sub(";", explanation))]
    return list(dict.fromkeys(part for part in parts if part)) or [explanation]


def _cut(scores: Float[np.ndarray, " n"], texts: Sequence[Sequence[str]]) -> list[list[float]]:
    """Scores of all words as those of each text."""
    return [part.tolist() for part in np.split(scores, np.cumsum([len(words) for words in texts])[:-1])]


def _rating(likeness: float) -> int:
    """0 to 10."""
    return min(10, max(0, round(10 * (likeness - _ZERO) / (_FULL - _ZERO))))


def _chosen(scores: Sequence[float], threshold: float, *, must: bool) -> list[int]:
    """Places of what reaches `threshold`; where nothing does and something `must`, of what comes nearest.

    Of several texts some must: they were picked to tell a feature from its controls, and a constant says nothing.
    """
    found = [i for i, score in enumerate(scores) if score >= threshold]
    return found or ([scores.index(max(scores))] if must and scores else [])

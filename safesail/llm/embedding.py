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
from safesail.llm.builtin import BuiltinModel, split_like, words_of
from safesail.llm.builtin_prompts import BuiltinPrompt
from safesail.llm.words import COMMON, MarkedText

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Vectors of length 1, one a row, of texts."""

_ZERO, _FULL = 4.0, 16.0
"""Likeness that is rated 0, and that is rated 10. Set on windows of the training split, as those below."""

_BEFORE = 2
"""Words before a word that are read with it."""

_KEPT = 64
"""Sets of units whose vectors are kept: other explanations are tested on the same ones."""

_MADE_OF = re.compile(r"\b(?:Fires on|after)\b|\(\d+\)")
_BREAK = re.compile(r"[;,.“”\"]|\b(?:and|or|such as|including|e\.g)\b")


class EmbeddingModel(BuiltinModel):
    """Answers simulation prompts by likeness of meaning."""

    active_segment = 6.0
    active_text = 8.0
    active_marks = 2.0

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        # How alike the commonest words are to a phrase says what likeness means for it.
        self._common = embed(COMMON)
        self._kept: dict[tuple[str, ...], NDArray[np.float32]] = {}

    def explain(self, asked: BuiltinPrompt) -> str:
        """It cannot.

        Raises:
            RefusedAnswerError: always.
        """
        raise RefusedAnswerError("the model 'embedding' cannot explain; name another explainer")

    def word_scores(self, explanation: str, texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """Likeness of every word, alone and with those before it, averaged."""
        alone = [word for words in texts for word in words]
        with_before = [
            " ".join(words[max(0, i - _BEFORE) : i + 1]) for words in texts for i in range(len(words))
        ]
        scores = (self._likeness(explanation, alone) + self._likeness(explanation, with_before)) / 2
        return split_like(scores.tolist(), texts)

    def segment_scores(self, explanation: str, texts: Sequence[Sequence[str]]) -> list[float]:
        """Likeness of a segment's likest word, and of the segment as a whole, averaged."""
        segments = [segment for text in texts for segment in text]
        words = [words_of(segment) for segment in segments]
        alone = self._likeness(explanation, [word for part in words for word in part])
        best = [max(part, default=0.0) for part in split_like(alone.tolist(), words)]
        return ((np.array(best) + self._likeness(explanation, segments)) / 2).tolist()

    def likeness(self, texts: Sequence[MarkedText]) -> list[list[float]]:
        """Cosine of what the marked words mean, each with those before it, on average over a text's."""
        phrases = [
            " ".join(text.words[max(0, i - _BEFORE) : i + 1])
            for text in texts
            for i, strength in enumerate(text.strength)
            if strength
        ]
        vectors = self._vectors(phrases) if phrases else np.zeros((0, 1), np.float32)
        parts = np.split(vectors, np.cumsum([sum(map(bool, text.strength)) for text in texts])[:-1])
        means = np.stack([part.mean(0) if len(part) else np.zeros(vectors.shape[1]) for part in parts])
        norms = np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9)
        unit = means / norms
        return (unit @ unit.T).tolist()

    def rating(self, score: float) -> int:
        """A likeness as a rating from 0 to 10."""
        return min(10, max(0, round(10 * (score - _ZERO) / (_FULL - _ZERO))))

    def _likeness(self, explanation: str, units: Sequence[str]) -> Float[np.ndarray, " n"]:
        """How alike each unit is to the whole explanation, and to its phrase that is most like the unit, summed.

        Each in deviations above the mean likeness of common words: what is high differs from phrase to phrase.
        """
        if not explanation.strip():
            return np.zeros(len(units))
        vectors = self._vectors(units)
        keys = self._vectors([explanation, *phrases_of(explanation)])
        usual = self._common @ keys.T
        standard = (vectors @ keys.T - usual.mean(0)) / np.maximum(usual.std(0), 0.01)
        return standard[:, 0] + standard[:, 1:].max(1)

    def _vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of exactly these texts: they depend on this prompt alone, not on what was asked before."""
        key = tuple(texts)
        if key not in self._kept:
            distinct = list(dict.fromkeys(texts))
            row = {text: i for i, text in enumerate(distinct)}
            if len(self._kept) >= _KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = self._embed(distinct)[[row[text] for text in texts]]
        return self._kept[key]


def phrases_of(explanation: str) -> list[str]:
    """What an explanation names: its quoted words and the parts of its sentences, at least one."""
    parts = [part.strip() for part in _BREAK.split(_MADE_OF.sub(";", explanation))]
    return list(dict.fromkeys(part for part in parts if part)) or [explanation]

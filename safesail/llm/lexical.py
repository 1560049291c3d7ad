"""The built-in model: a rule, not a language model. It needs no key and no network.

It answers Safe-SAIL's own prompts from their text alone, so that the way of a call (prompt, budget, cache,
parser, score) is the one that a real endpoint's answers take. Its scores are a floor to beat.
"""

import json
import re
from collections.abc import Sequence

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
from safesail.llm.lexical_explain import explain
from safesail.llm.lexical_rule import ACTIVE, Rule, read_rule
from safesail.llm.lexical_words import read_marked, split_words
from safesail.llm.types import LLMAnswer, LLMRequest

_RATING = 5.0
"""Rating from 0 to 10 for each point of a word's score."""

_TEXT_WORDS, _TEXT_ACTIVE = 3, 2.5
"""A whole text is active when its best words, so many, have this score together."""


class LexicalModel:
    """Answers the prompts under `prompts/` by counting words."""

    @property
    def endpoint(self) -> str:
        """Where answers come from."""
        return ENDPOINT

    def worst_case(self, request: LLMRequest) -> int:
        """Upper bound of the tokens billed for one attempt: all of the prompt and the longest answer."""
        return prompt_tokens(request) + request.max_tokens

    async def complete(self, request: LLMRequest) -> LLMAnswer:
        """Answer by rule; the same prompt always has the same answer.

        Raises:
            RefusedAnswerError: the prompt is none of Safe-SAIL's.
        """
        return billed(answer(request.prompt), request)


def answer(prompt: str) -> str:
    """The answer to a prompt.

    Raises:
        RefusedAnswerError: the prompt is none of Safe-SAIL's.
    """
    asked = read_prompt(prompt)
    if asked.block == "active":
        return _explain(asked)
    rule = read_rule(asked.explanation)
    match asked.block:
        case "tokens":
            return _rate_tokens(rule, asked.tokens)
        case "segments":
            return _choose_segments(rule, asked)
        case "texts":
            return _choose_texts(rule, asked.texts)
        case "marked":
            return _judge_marks(rule, asked.texts)


def _explain(asked: BuiltinPrompt) -> str:
    max_words = re.search(r"at most (\d+) words", asked.text)
    tags = re.search(r"^Tags, [^:\n]*: (.*)\.$", asked.text, re.MULTILINE)
    answer = explain(
        asked.lines,
        [line for line in asked.between("silent").split("\n") if line],
        tags[1].split(", ") if tags else [],
        int(max_words[1]) if max_words else 60,
    )
    return (
        json.dumps(answer, ensure_ascii=False)
        if '{"explanation"' in asked.question
        else answer["explanation"]
    )


def _choose_segments(rule: Rule, asked: BuiltinPrompt) -> str:
    texts = asked.segments
    contents = [segment for segments in texts.values() for segment in segments]
    scores = [score for segments in texts.values() for score in _segment_scores(rule, segments)]
    chosen = _chosen(scores, rule, contents, ACTIVE, must=len(texts) > 1)
    return write_segments(asked, {i: min(10, max(1, round(_RATING * scores[i]))) for i in chosen})


def _segment_scores(rule: Rule, segments: Sequence[str]) -> list[float]:
    """The best word's score of each segment; words see those of earlier segments."""
    words = [[word.text for word in split_words(segment)] for segment in segments]
    scores = rule.scores([word for segment in words for word in segment])
    best: list[float] = []
    first = 0
    for segment in words:
        best.append(max(scores[first : first + len(segment)], default=0.0))
        first += len(segment)
    return best


def _rate_tokens(rule: Rule, tokens: Sequence[str]) -> str:
    """Every token has the rating of the best word that it is part of."""
    words = split_words("".join(tokens))
    scores = rule.scores([word.text for word in words])
    ratings: list[int] = []
    start = 0
    for token in tokens:
        stop = start + len(token)
        best = max(
            (s for w, s in zip(words, scores, strict=True) if w.start < stop and w.stop > start), default=0.0
        )
        ratings.append(min(10, round(_RATING * best)))
        start = stop
    return write_ratings(tokens, ratings)


def _choose_texts(rule: Rule, texts: Sequence[str]) -> str:
    scores = [
        sum(sorted(rule.scores([word.text for word in split_words(text)]), reverse=True)[:_TEXT_WORDS])
        for text in texts
    ]
    return write_names(letters(len(texts)), _chosen(scores, rule, texts, _TEXT_ACTIVE, must=len(texts) > 1))


def _judge_marks(rule: Rule, texts: Sequence[str]) -> str:
    """Marks are right where the words that carry them score half of an active word on average."""
    scores: list[float] = []
    for line in texts:
        text = read_marked(line)
        held = zip(rule.scores(text.words), text.strength, strict=True)
        carried = [score for score, strength in held if strength]
        scores.append(sum(carried) / len(carried) if carried else 0.0)
    return write_names(letters(len(texts)), _chosen(scores, rule, texts, ACTIVE / 2, must=len(texts) > 1))


def _chosen(
    scores: Sequence[float], rule: Rule, contents: Sequence[str], threshold: float, *, must: bool
) -> list[int]:
    """Places of what reaches `threshold`; where nothing does and something `must`, of what comes nearest.

    Of several texts some must: they were picked to tell a feature from its controls, and a constant says nothing.
    """
    best = max(scores, default=0.0)
    if best >= threshold or not must:
        return [i for i, score in enumerate(scores) if score >= threshold]
    if best > 0:
        return [i for i, score in enumerate(scores) if score == best]
    keys = _trigrams(" ".join(value for _, value in rule.weights))
    likeness = [len(keys & _trigrams(content)) / (1 + len(content)) for content in contents]
    return [likeness.index(max(likeness))]


def _trigrams(text: str) -> set[str]:
    lower = text.lower()
    return {lower[i : i + 3] for i in range(len(lower) - 2)}

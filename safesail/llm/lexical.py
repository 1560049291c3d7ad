"""The built-in model: a rule, not a language model. It needs no key and no network.

It answers Safe-SAIL's own prompts from their text alone, so that the way of a call (prompt, budget, cache,
parser, score) is the one that a real endpoint's answers take. Its scores are a floor to beat.
"""

import json
import re
from collections.abc import Sequence

from safesail.errors import RefusedAnswerError
from safesail.llm.lexical_explain import explain
from safesail.llm.lexical_rule import ACTIVE, Rule, read_rule
from safesail.llm.lexical_words import read_marked, split_words
from safesail.llm.types import LLMAnswer, LLMRequest

ENDPOINT = "builtin"
_TOKEN = re.compile(r" ?[^\W\d_]{1,8}|\d|\n+| ?[^\w\s]{1,3}| |_")
_BLOCK = re.compile(r"<(active|segments|tokens|texts|marked)>\n(.*?)\n</\1>", re.DOTALL)
_LABELLED = re.compile(r"(?:\d+|[A-Z]) ?(.*)")
_LETTER = re.compile(r"[A-Z]")
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
        return _prompt_tokens(request) + request.max_tokens

    async def complete(self, request: LLMRequest) -> LLMAnswer:
        """Answer by rule; the same prompt always has the same answer.

        Raises:
            RefusedAnswerError: the prompt is none of Safe-SAIL's.
        """
        text = answer(request.prompt)
        n_tokens = count_tokens(text)
        return LLMAnswer(
            text=text,
            finish="stop" if n_tokens <= request.max_tokens else "length",
            input_tokens=_prompt_tokens(request),
            output_tokens=min(n_tokens, request.max_tokens),
            usage_source="billed",
        )


def count_tokens(text: str) -> int:
    """Tokens that the built-in model bills for `text`.

    One for up to eight letters with the space before them, a digit, up to three other characters, or a run of
    line ends.
    """
    return len(_TOKEN.findall(text))


def answer(prompt: str) -> str:
    """The answer to a prompt.

    Raises:
        RefusedAnswerError: the prompt is none of Safe-SAIL's.
    """
    found = _BLOCK.search(prompt)
    if found is None:
        raise RefusedAnswerError(
            "the built-in model answers Safe-SAIL's own prompts only; name another model"
        )
    block, lines = found[1], found[2].split("\n")
    if block == "active":
        return _explain(prompt, lines)
    rule = read_rule(_between(prompt, "explanation"))
    match block:
        case "tokens":
            return _rate_tokens(rule, json.loads(found[2]))
        case "segments":
            return _choose_segments(rule, lines, prompt[found.end() :])
        case "texts":
            return _choose_texts(rule, [_unlabelled(line) for line in lines])
        case _:
            return _judge_marks(rule, [_unlabelled(line) for line in lines])


def _explain(prompt: str, active: Sequence[str]) -> str:
    silent = _between(prompt, "silent").split("\n")
    max_words = re.search(r"at most (\d+) words", prompt)
    tags = re.search(r"^Tags, [^:\n]*: (.*)\.$", prompt, re.MULTILINE)
    return explain(
        active,
        [line for line in silent if line],
        tags[1].split(", ") if tags else [],
        int(max_words[1]) if max_words else 60,
    )


def _choose_segments(rule: Rule, lines: Sequence[str], question: str) -> str:
    """Segments with their ratings, or 1 for each that is active; all of them or the active ones, as asked."""
    texts: dict[str, list[str]] = {}
    for line in lines:
        if _LETTER.fullmatch(line):
            texts[line] = []
        else:
            texts[list(texts)[-1]].append(_unlabelled(line))
    labels = [f"{letter}{i}" for letter, segments in texts.items() for i in range(1, len(segments) + 1)]
    contents = [segment for segments in texts.values() for segment in segments]
    scores = [score for segments in texts.values() for score in _segment_scores(rule, segments)]
    chosen = _chosen(scores, rule, contents, ACTIVE, must=len(texts) > 1)
    graded = "rating" in question
    values = {labels[i]: _clipped(scores[i]) if graded else 1 for i in chosen}
    if '{"active"' not in question:
        listed = {
            letter: [values.get(f"{letter}{i}", 0) for i in range(1, len(segments) + 1)]
            for letter, segments in texts.items()
        }
        return _compact(listed)
    return _compact({"active": values if graded else list(values)})


def _clipped(score: float) -> int:
    """Rating of something active, from 1 to 10."""
    return min(10, max(1, round(_RATING * score)))


def _compact(value: object) -> str:
    """JSON without spaces, as the segment prompts show it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


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
    rated: list[tuple[str, int]] = []
    start = 0
    for token in tokens:
        stop = start + len(token)
        best = max(
            (s for w, s in zip(words, scores, strict=True) if w.start < stop and w.stop > start), default=0.0
        )
        rated.append((token, min(10, round(_RATING * best))))
        start = stop
    return json.dumps(rated, ensure_ascii=False)


def _choose_texts(rule: Rule, texts: Sequence[str]) -> str:
    scores = [
        sum(sorted(rule.scores([word.text for word in split_words(text)]), reverse=True)[:_TEXT_WORDS])
        for text in texts
    ]
    return _letters(_chosen(scores, rule, texts, _TEXT_ACTIVE, must=len(texts) > 1))


def _judge_marks(rule: Rule, texts: Sequence[str]) -> str:
    """Marks are right where the words that carry them score half of an active word on average."""
    scores: list[float] = []
    for line in texts:
        text = read_marked(line)
        held = zip(rule.scores(text.words), text.strength, strict=True)
        carried = [score for score, strength in held if strength]
        scores.append(sum(carried) / len(carried) if carried else 0.0)
    return _letters(_chosen(scores, rule, texts, ACTIVE / 2, must=len(texts) > 1))


def _letters(chosen: Sequence[int]) -> str:
    return json.dumps({"active": [chr(ord("A") + i) for i in chosen]})


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


def _unlabelled(line: str) -> str:
    found = _LABELLED.fullmatch(line)
    assert found is not None, line
    return found[1]


def _between(prompt: str, tag: str) -> str:
    found = re.search(rf"<{tag}>\n?(.*?)\n?</{tag}>", prompt, re.DOTALL)
    return found[1] if found else ""


def _prompt_tokens(request: LLMRequest) -> int:
    return count_tokens(request.system) + count_tokens(request.prompt)

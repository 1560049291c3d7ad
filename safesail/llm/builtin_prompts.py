"""Reading Safe-SAIL's own prompts and writing answers to them, as the built-in models do."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

from safesail.errors import RefusedAnswerError
from safesail.llm.types import LLMAnswer, LLMRequest

ENDPOINT = "builtin-2"
"""Where built-in models' answers come from. The number is their rules': raised with every change of an answer, since
answers are cached by it, as by everything else that they depend on."""

Block = Literal["active", "segments", "tokens", "texts", "marked", "groups"]

_TOKEN = re.compile(r" ?[^\W\d_]{1,8}|\d|\n+| ?[^\w\s]{1,3}| |_")
_BLOCK = re.compile(r"<(active|segments|tokens|texts|marked|groups)>\n(.*?)\n</\1>", re.DOTALL)
_FEATURE = re.compile(r"^Feature \d+\n(?=<active>\n)", re.MULTILINE)
_LABELLED = re.compile(r"(?:\d+|[A-Z]) ?(.*)")
_LETTER = re.compile(r"[A-Z]{1,3}")


@dataclass(frozen=True)
class BuiltinPrompt:
    """A prompt made from a template under `prompts/`."""

    text: str
    block: Block
    """Name of its fenced part: what is asked."""

    content: str
    """The fenced part."""

    question: str
    """What stands behind it: which form of answer is asked for."""

    @property
    def explanation(self) -> str:
        """What a simulator is told of the feature."""
        return self.between("explanation")

    @property
    def features(self) -> list["BuiltinPrompt"]:
        """What is shown of each of several features, as if it were asked about alone; one where it is."""
        parts = _FEATURE.split(self.text)[1:]
        return [
            replace(self, text=part, content=_BLOCK.search(part)[2])  # pyright: ignore[reportOptionalSubscript]
            for part in parts
        ] or [self]

    @property
    def explanations(self) -> list[str]:
        """What a simulator is told of several features; nothing where it is told of one."""
        told = self.between("explanations")
        return [_unlabelled(line) for line in told.split("\n")] if told else []

    @property
    def lines(self) -> list[str]:
        """Lines of the fenced part, with their labels."""
        return self.content.split("\n")

    @property
    def texts(self) -> list[str]:
        """Lines of the fenced part, without their labels."""
        return [_unlabelled(line) for line in self.lines]

    @property
    def tokens(self) -> list[str]:
        """The tokens of a prompt that asks for every one."""
        return json.loads(self.content)

    @property
    def segments(self) -> dict[str, list[str]]:
        """Segments of each text, by the text's letter."""
        texts: dict[str, list[str]] = {}
        for line in self.lines:
            if _LETTER.fullmatch(line):
                texts[line] = []
            else:
                texts[list(texts)[-1]].append(_unlabelled(line))
        return texts

    @property
    def groups(self) -> list[list[str]]:
        """Texts of each group, with their marks."""
        groups: list[list[str]] = []
        for line in self.lines:
            if line.isdecimal():
                groups.append([])
            else:
                groups[-1].append(_unlabelled(line))
        return groups

    def between(self, tag: str) -> str:
        """What stands between `<tag>` and `</tag>`; nothing where there is no such tag."""
        match = re.search(rf"<{tag}>\n?(.*?)\n?</{tag}>", self.text, re.DOTALL)
        return match[1] if match else ""


def read_prompt(prompt: str) -> BuiltinPrompt:
    """Find out what a prompt asks.

    Raises:
        RefusedAnswerError: it is none of Safe-SAIL's.
    """
    match = _BLOCK.search(prompt)
    if match is None:
        raise RefusedAnswerError(
            "the built-in model answers Safe-SAIL's own prompts only; name another model"
        )
    return BuiltinPrompt(prompt, cast("Block", match[1]), match[2], prompt[match.end() :])


def write_names(labels: Sequence[str], chosen: Sequence[int]) -> str:
    """The answer that names what is active."""
    return json.dumps({"active": [labels[i] for i in chosen]})


def write_segments(asked: BuiltinPrompt, grades: dict[int, int]) -> str:
    """The answer about segments, given the active ones' ratings by index, in the form that `asked` shows.

    Without spaces, as the prompt shows it.
    """
    graded = "rating" in asked.question
    lists = {letter: [0] * len(segments) for letter, segments in asked.segments.items()}
    segments = [(letter, i) for letter, values in lists.items() for i in range(len(values))]
    named = {segments[at]: grade if graded else 1 for at, grade in grades.items()}
    for (letter, i), value in named.items():
        lists[letter][i] = value
    labels = {f"{letter}{i + 1}": value for (letter, i), value in named.items()}
    active = '{"active"' in asked.question
    shown = {"active": labels if graded else list(labels)} if active else lists
    return json.dumps(shown, separators=(",", ":"))


def write_pooled(asked: BuiltinPrompt, grades: Sequence[dict[int, int]]) -> str:
    """The answer about segments for several explanations, given the active ones' ratings by index for each."""
    labels = [f"{letter}{i + 1}" for letter, segments in asked.segments.items() for i in range(len(segments))]
    limit = re.search(r"strongest (\d+) at most", asked.question)
    most = int(limit[1]) if limit else len(labels)
    shown: dict[str, dict[str, int]] = {}
    for number, of in enumerate(grades, 1):
        kept = sorted(of, key=lambda at: (-of[at], at))[:most]
        shown[str(number)] = {labels[at]: of[at] for at in sorted(kept)}
    return json.dumps(shown, separators=(",", ":"))


def write_ratings(tokens: Sequence[str], ratings: Sequence[int]) -> str:
    """The answer that rates every token."""
    return json.dumps(list(zip(tokens, ratings, strict=True)), ensure_ascii=False)


def write_choices(chosen: Sequence[int]) -> str:
    """The answer that names one text of every group."""
    named = {str(number): letters(26)[index] for number, index in enumerate(chosen, 1)}
    return json.dumps(named, separators=(",", ":"))


def letters(n: int) -> list[str]:
    """Names of `n` texts."""
    return [chr(ord("A") + i) for i in range(n)]


def count_tokens(text: str) -> int:
    """Tokens that a built-in model bills for `text`.

    One for up to eight letters with the space before them, a digit, up to three other characters, or a run of
    line ends.
    """
    return len(_TOKEN.findall(text))


def prompt_tokens(request: LLMRequest) -> int:
    """Tokens that a built-in model bills for what it is sent."""
    return count_tokens(request.system) + count_tokens(request.prompt)


def billed(text: str, request: LLMRequest) -> LLMAnswer:
    """`text` as an answer with its bill, cut where it is longer than was asked for."""
    n_tokens = count_tokens(text)
    return LLMAnswer(
        text=text,
        finish="stop" if n_tokens <= request.max_tokens else "length",
        input_tokens=prompt_tokens(request),
        output_tokens=min(n_tokens, request.max_tokens),
        usage_source="billed",
    )


def _unlabelled(line: str) -> str:
    match = _LABELLED.fullmatch(line)
    assert match is not None, line
    return match[1]

"""Strict parsers of models' answers. Whatever does not have the form asked for is an error, never a guess."""

import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from safesail.domain.text import clean_text, text_fault
from safesail.errors import BadAnswerError, RefusedAnswerError, UnparsableAnswerError

_REFUSAL = re.compile(
    r"(i['’]m sorry|sorry|i am sorry|i can(['’]t|not)|i am unable|i['’]m unable|i won['’]t|as an ai)\b", re.I
)
_FENCED = re.compile(r"\A```(?:json)?\s*\n(.*)\n```\Z", re.DOTALL | re.I)
_MARK = re.compile(r"<<|>>|\|\d")
_MAX_RATING = 10

EXPLANATION_SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "explanation": {"type": "string"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "confidence": {"type": "number"},
        },
        "required": ["explanation", "tags", "confidence"],
        "additionalProperties": False,
    }
)
"""JSON schema of an explanation, for servers that can hold an answer to one."""

ACTIVE_SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"active": {"type": "array", "items": {"type": "string"}}},
        "required": ["active"],
        "additionalProperties": False,
    }
)
"""JSON schema of a list of labels of active units."""


@dataclass(frozen=True)
class ParsedExplanation:
    """An explainer's answer."""

    text: str
    tags: tuple[str, ...]
    confidence: float | None
    """The explainer's own, in [0, 1]; None where it gave none."""


def parse_explanation(answer: str, *, tags: Collection[str], max_words: int) -> ParsedExplanation:
    """Read `{"explanation": ..., "tags": [...], "confidence": ...}`.

    Tags that are not among `tags` are left out: an invented one must neither enter the catalog nor cost
    the explanation.

    Raises:
        RefusedAnswerError: the model declined.
        UnparsableAnswerError: not that form, no explanation in it, or one longer than `max_words` words.
    """
    return _explanation(_json(answer), answer, tags, max_words)


def parse_explanations(
    answer: str, *, n: int, tags: Collection[str], max_words: int
) -> list[ParsedExplanation | BadAnswerError]:
    """Read `{"1": {"explanation": ...}, "2": ...}`: one item for each of `n` features, as `parse_explanation` takes it.

    A faulty item costs itself, not those beside it, which are paid for.

    Raises:
        RefusedAnswerError: the model declined.
        UnparsableAnswerError: not an object with the keys 1 to `n`, or one of them is there twice.
    """
    fields = _json(answer, pairs=_unique)
    numbers = [str(number + 1) for number in range(n)]
    if not isinstance(fields, dict) or set(cast("dict[str, Any]", fields)) != set(numbers):
        raise _unparsable(f"not an object with the keys 1 to {n}", answer)
    items: list[ParsedExplanation | BadAnswerError] = []
    for number in numbers:
        try:
            items.append(_explanation(fields[number], answer, tags, max_words))
        except BadAnswerError as error:
            items.append(error)
    return items


def _explanation(value: Any, answer: str, tags: Collection[str], max_words: int) -> ParsedExplanation:
    fields = _fields(value, answer, required="explanation", allowed={"explanation", "tags", "confidence"})
    text, given, confidence = fields["explanation"], fields.get("tags", []), fields.get("confidence")
    if not isinstance(text, str) or not text.strip():
        raise _unparsable("the explanation is not a text, or empty", answer)
    if _REFUSAL.match(text.strip()):
        raise RefusedAnswerError(f"the model declined: {_shown(text)}")
    if len(text.split()) > max_words:
        raise _unparsable(
            f"an explanation of {len(text.split())} words; at most {max_words} are taken", answer
        )
    if not isinstance(given, list) or not all(isinstance(tag, str) for tag in cast("list[Any]", given)):
        raise _unparsable("tags must be a list of texts", answer)
    if confidence is not None and not (_is_number(confidence) and 0 <= confidence <= 1):
        raise _unparsable("confidence must be a number from 0 to 1", answer)
    kept = dict.fromkeys(tag for tag in cast("list[str]", given) if tag in tags)
    return ParsedExplanation(
        " ".join(clean_text(text).split()), tuple(kept), None if confidence is None else float(confidence)
    )


def parse_sentence(answer: str, *, max_words: int) -> ParsedExplanation:
    """Read an explanation given as plain text: one paragraph, neither JSON nor a copy of the marked texts.

    Raises:
        RefusedAnswerError: the model declined.
        UnparsableAnswerError: empty, of several paragraphs, longer than `max_words` words, JSON, or with marks.
    """
    text = answer.strip()
    if _REFUSAL.match(text):
        raise RefusedAnswerError(f"the model declined: {_shown(text)}")
    if not text:
        raise _unparsable("no explanation", answer)
    if "\n" in text:
        raise _unparsable("an explanation is one paragraph", answer)
    if text.startswith(("{", "[")) or _MARK.search(text):
        raise _unparsable("JSON, or a copy of the marked texts, not a sentence", answer)
    if len(text.split()) > max_words:
        raise _unparsable(
            f"an explanation of {len(text.split())} words; at most {max_words} are taken", answer
        )
    return ParsedExplanation(" ".join(text.split()), (), None)


def parse_active(answer: str, *, labels: Sequence[str]) -> tuple[int, ...]:
    """Read `{"active": ["A3", "C1"]}`: for each of `labels` 1 where it is named, 0 where not.

    Raises:
        RefusedAnswerError: the model declined.
        UnparsableAnswerError: not that form, or a label that is not among `labels`.
    """
    named = _object(answer, required="active", allowed={"active"})["active"]
    if not isinstance(named, list):
        raise _unparsable('"active" must be a list of labels', answer)
    marked = {_label(value, labels, answer) for value in cast("list[Any]", named)}
    return tuple(int(label in marked) for label in labels)


def parse_graded(answer: str, *, labels: Sequence[str]) -> tuple[float, ...]:
    """Read `{"active": {"A3": 7, "C1": 10}}`: for each of `labels` its rating from 0 to 10, 0 where not named.

    Raises:
        RefusedAnswerError: the model declined.
        UnparsableAnswerError: not that form, an unknown label, or a rating out of range.
    """
    ratings = _object(answer, required="active", allowed={"active"})["active"]
    if not isinstance(ratings, dict):
        raise _unparsable('"active" must map labels to ratings', answer)
    by_label = {
        _label(key, labels, answer): _rating(value, answer)
        for key, value in cast("dict[str, Any]", ratings).items()
    }
    return tuple(by_label.get(label, 0.0) for label in labels)


def parse_pooled(
    answer: str, *, n_explanations: int, labels: Sequence[str], most: int
) -> list[tuple[float, ...]]:
    """Read `{"1": {"A3": 7}, "2": {}}`: for each explanation a rating from 0 to 10 of each of `labels`, 0 if not named.

    Raises:
        RefusedAnswerError: the model declined.
        UnparsableAnswerError: not that form, a key twice, an explanation too many or too few, an unknown label, a
            rating out of range, or more than `most` labels for one explanation.
    """
    numbers = [str(number + 1) for number in range(n_explanations)]
    fields = _json(answer, pairs=_unique)
    if not isinstance(fields, dict) or set(cast("dict[str, Any]", fields)) != set(numbers):
        raise _unparsable(f"not an object with the keys 1 to {n_explanations}", answer)
    index = {label: i for i, label in enumerate(labels)}
    rated: list[tuple[float, ...]] = []
    for number in numbers:
        ratings = cast("dict[str, Any]", fields)[number]
        if not isinstance(ratings, dict) or len(cast("dict[str, Any]", ratings)) > most:
            raise _unparsable(f"explanation {number} must map at most {most} labels to ratings", answer)
        row = [0.0] * len(labels)
        for label, value in cast("dict[str, Any]", ratings).items():
            row[index[_label(label, index, answer)]] = _rating(value, answer)
        rated.append(tuple(row))
    return rated


def parse_choices(answer: str, *, n_groups: int, labels: Sequence[str]) -> list[int]:
    """Read `{"1": "A", "2": "C"}`: for each group the index of the label that is chosen.

    Raises:
        RefusedAnswerError: the model declined.
        UnparsableAnswerError: not that form, a key twice, a group too many or too few, or an unknown label.
    """
    numbers = [str(number + 1) for number in range(n_groups)]
    fields = _json(answer, pairs=_unique)
    if not isinstance(fields, dict) or set(cast("dict[str, Any]", fields)) != set(numbers):
        raise _unparsable(f"not an object with the keys 1 to {n_groups}", answer)
    return [labels.index(_label(fields[number], list(labels), answer)) for number in numbers]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, if it names nothing twice: which of two values counts is not said."""
    named = dict(pairs)
    if len(named) != len(pairs):
        raise ValueError("a key is there twice")
    return named


def parse_listed(answer: str, *, sizes: Mapping[str, int], highest: int) -> list[tuple[float, ...]]:
    """Read `{"A": [0, 7], "B": [0]}`: for each text of `sizes` as many values from 0 to `highest` as it has segments.

    Raises:
        RefusedAnswerError: the model declined.
        UnparsableAnswerError: not that form, a text or segment too many or too few, or a value out of range.
    """
    fields = _json(answer)
    if not isinstance(fields, dict) or list(cast("dict[str, Any]", fields)) != list(sizes):
        raise _unparsable(f"not an object with the keys {', '.join(sizes)} in order", answer)
    lists: list[tuple[float, ...]] = []
    for letter, values in cast("dict[str, Any]", fields).items():
        if not isinstance(values, list) or len(cast("list[Any]", values)) != sizes[letter]:
            raise _unparsable(
                f"text {letter} has {sizes[letter]} segments, its list not as many values", answer
            )
        lists.append(tuple(_rating(value, answer, highest) for value in cast("list[Any]", values)))
    return lists


def parse_ratings(answer: str, *, tokens: Sequence[str]) -> tuple[float, ...]:
    """Read `[["token", 0], ...]`: one rating from 0 to 10 for each of `tokens`, in order.

    Raises:
        RefusedAnswerError: the model declined.
        UnparsableAnswerError: not that form, a rating out of range, or other tokens than were asked about.
    """
    pairs = _json(answer)
    if not isinstance(pairs, list) or len(cast("list[Any]", pairs)) != len(tokens):
        raise _unparsable(f"not a list of {len(tokens)} [token, rating] pairs", answer)
    ratings: list[float] = []
    for i, (pair, token) in enumerate(zip(cast("list[Any]", pairs), tokens, strict=True)):
        match pair:
            # Models drop the space before a word, which changes nothing.
            case [str(said), rating] if said.strip() == token.strip():
                ratings.append(_rating(rating, answer))
            case _:
                raise _unparsable(f"item {i} is not [{token!r}, rating]", answer)
    return tuple(ratings)


@dataclass(frozen=True)
class ParsedPair:
    """One contrast pair as a model wrote it; whether it is a good one is not known yet."""

    form: str
    pos: str
    neg: str


@dataclass(frozen=True)
class ParsedPairs:
    """A writer's answer."""

    pairs: tuple[ParsedPair, ...]
    keywords: tuple[str, ...]
    """Words that carry the concept, as the writer sees it."""

    malformed: int
    """Pairs left out because they are not `{"form", "pos", "neg"}` with a known form and two texts."""


def parse_pairs(answer: str, *, forms: Collection[str]) -> ParsedPairs:
    """Read `{"keywords": ["bribe"], "pairs": [{"form": "news", "pos": ..., "neg": ...}]}`.

    A malformed pair costs itself, not those beside it, which are paid for.

    Raises:
        RefusedAnswerError: the model declined.
        UnparsableAnswerError: not that form.
    """
    fields = _object(answer, required="pairs", allowed={"keywords", "pairs"})
    given, keywords = fields["pairs"], fields.get("keywords", [])
    if not isinstance(given, list):
        raise _unparsable('"pairs" must be a list', answer)
    if not isinstance(keywords, list) or not all(isinstance(w, str) for w in cast("list[Any]", keywords)):
        raise _unparsable('"keywords" must be a list of texts', answer)
    items = cast("list[Any]", given)
    pairs = [pair for item in items if (pair := _pair(item, forms)) is not None]
    words = dict.fromkeys(
        clean for w in cast("list[str]", keywords) if (clean := " ".join(clean_text(w).split()))
    )
    return ParsedPairs(tuple(pairs), tuple(words), len(items) - len(pairs))


def _pair(item: Any, forms: Collection[str]) -> ParsedPair | None:
    match item:
        case {"form": str(form), "pos": str(pos), "neg": str(neg)} if len(item) == 3 and form in forms:
            pair = ParsedPair(form, *(" ".join(clean_text(text).split()) for text in (pos, neg)))
            return pair if pair.pos and pair.neg else None
        case _:
            return None


def _object(answer: str, *, required: str, allowed: Collection[str]) -> dict[str, Any]:
    return _fields(_json(answer), answer, required=required, allowed=allowed)


def _fields(value: Any, answer: str, *, required: str, allowed: Collection[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _unparsable("not a JSON object", answer)
    fields = cast("dict[str, Any]", value)
    if required not in fields or not set(fields) <= set(allowed):
        raise _unparsable(
            f"keys must be {', '.join(sorted(allowed))}, not {', '.join(sorted(fields))}", answer
        )
    return fields


def _json(answer: str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    text = answer.strip()
    if fenced := _FENCED.match(text):
        text = fenced.group(1)
    try:
        value = json.loads(text, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits
        if _REFUSAL.match(text):
            raise RefusedAnswerError(f"the model declined: {_shown(text)}") from error
        raise _unparsable("not JSON", answer) from error
    # Escapes may name half a character, which no file and no database takes.
    if (fault := text_fault(json.dumps(value, ensure_ascii=False))) is not None:
        raise _unparsable(fault, answer)
    return value


def _label(value: Any, labels: Collection[str], answer: str) -> str:
    if not isinstance(value, str) or value not in labels:
        raise _unparsable(f"{value!r} is not a label that was asked about", answer)
    return value


def _rating(value: Any, answer: str, highest: int = _MAX_RATING) -> float:
    if not _is_number(value) or not 0 <= value <= highest:
        raise _unparsable(f"{value!r} is not a rating from 0 to {highest}", answer)
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def _unparsable(reason: str, answer: str) -> BadAnswerError:
    return UnparsableAnswerError(f"{clean_text(reason)[:300]}: {_shown(answer)}")


def _shown(answer: str) -> str:
    text = " ".join(answer.split())
    return repr(text if len(text) <= 120 else text[:120] + "…")

"""Answers about several features at once: strict, bounded, and a fault costs what it must and no more."""

import pytest

from safesail.errors import RefusedAnswerError, UnparsableAnswerError
from safesail.prompting.parse import ParsedExplanation, parse_explanations, parse_pooled

LABELS = ["A1", "A2", "B1"]


def pooled(answer: str) -> list[tuple[float, ...]]:
    return parse_pooled(answer, n_explanations=2, labels=LABELS, most=2)


def test_ratings_by_explanation_and_label_zero_where_not_named() -> None:
    assert pooled('{"2": {"B1": 3, "A1": 10}, "1": {}}') == [(0, 0, 0), (10, 0, 3)]


@pytest.mark.parametrize(
    "answer",
    [
        '{"1": {}}',
        '{"1": {}, "2": {}, "3": {}}',
        '{"1": {}, "2": {"C1": 1}}',
        '{"1": {}, "2": {"A1": 11}}',
        '{"1": {}, "2": {"A1": -1}}',
        '{"1": {}, "2": {"A1": true}}',
        '{"1": {}, "2": ["A1"]}',
        '{"1": {}, "2": {"A1": 1, "A1": 2}}',
        '{"1": {}, "1": {}, "2": {}}',
        '{"1": {}, "2": {"A1": 1, "A2": 1, "B1": 1}}',
        '{"1": {}, "2": {}',
        "[]",
    ],
)
def test_anything_else_is_refused_whole(answer: str) -> None:
    with pytest.raises(UnparsableAnswerError):
        pooled(answer)


def test_a_refusal_is_told_from_a_bad_form() -> None:
    with pytest.raises(RefusedAnswerError):
        pooled("I'm sorry, I cannot rate these texts.")


def test_a_faulty_explanation_costs_itself_only() -> None:
    found = parse_explanations(
        '{"1": {"explanation": "bombs", "tags": ["weapons", "invented"], "confidence": 0.5},'
        ' "2": {"explanation": ""}, "3": {"explanation": "I\'m sorry, but no"}}',
        n=3, tags=("weapons",), max_words=9,
    )  # fmt: skip
    assert found[0] == ParsedExplanation("bombs", ("weapons",), 0.5)
    assert [type(f) for f in found[1:]] == [UnparsableAnswerError, RefusedAnswerError]


def test_an_explanation_too_few_or_too_many_refuses_all() -> None:
    for answer in ('{"1": {"explanation": "x"}}', '{"1": 1, "2": 2, "3": 3}', '{"1": 1, "1": 1, "2": 2}'):
        with pytest.raises(UnparsableAnswerError):
            parse_explanations(answer, n=2, tags=(), max_words=9)

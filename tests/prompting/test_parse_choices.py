"""Answers of intruder detection: exactly one known text of every group, or nothing counts."""

import pytest

from safesail.errors import RefusedAnswerError, UnparsableAnswerError
from safesail.prompting.parse import parse_choices


def test_each_group_has_the_index_of_its_text() -> None:
    assert parse_choices('```json\n{"2":"A","1":"E"}\n```', n_groups=2, labels="ABCDE") == [4, 0]


@pytest.mark.parametrize(
    "answer",
    [
        '{"1":"A"}',
        '{"1":"A","2":"B","3":"C"}',
        '{"1":"A","1":"B","2":"C"}',
        '{"1":"A","2":"F"}',
        '{"1":"A","2":""}',
        '{"1":"A","2":"AB"}',
        '{"1":"A","2":["B"]}',
        '{"1":"A","2":1}',
        '{"1":"a","2":"B"}',
        '["A","B"]',
        "",
        "A, B",
    ],
)
def test_anything_else_is_refused(answer: str) -> None:
    with pytest.raises(UnparsableAnswerError):
        parse_choices(answer, n_groups=2, labels="ABCDE")


def test_a_refusal_is_told_from_a_bad_form() -> None:
    with pytest.raises(RefusedAnswerError):
        parse_choices("I'm sorry, I cannot do that.", n_groups=1, labels="ABCDE")

import json

import pytest

from safesail.errors import BadAnswerError, RefusedAnswerError, UnparsableAnswerError
from safesail.prompting.parse import (
    ACTIVE_SCHEMA,
    EXPLANATION_SCHEMA,
    ParsedExplanation,
    parse_active,
    parse_explanation,
    parse_graded,
    parse_listed,
    parse_ratings,
    parse_sentence,
)

TAGS = ("weapons", "insult")


def explained(answer: str) -> ParsedExplanation:
    return parse_explanation(answer, tags=TAGS, max_words=6)


def test_explanation() -> None:
    answer = '{"explanation": " Words\\n for bombs ", "tags": ["weapons", "weapons"], "confidence": 1}'
    assert explained(answer) == ParsedExplanation("Words for bombs", ("weapons",), 1.0)


def test_a_code_fence_round_the_json_is_taken_off() -> None:
    assert explained('```json\n{"explanation": "Bombs"}\n```') == ParsedExplanation("Bombs", (), None)
    assert parse_active('```\n{"active": ["A"]}\n```', labels=["A"]) == (1,)


def test_an_invented_tag_is_left_out_and_the_explanation_kept() -> None:
    assert explained('{"explanation": "Bombs", "tags": ["explosives", "insult"]}').tags == ("insult",)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("It fires on bombs.", "not JSON: 'It fires on bombs.'"),
        ('["Bombs"]', "not a JSON object"),
        ('{"tags": []}', "keys must be confidence, explanation, tags, not tags"),
        ('{"explanation": "x", "note": 1}', "keys must be"),
        ('{"explanation": "  "}', "not a text, or empty"),
        ('{"explanation": null}', "not a text, or empty"),
        ('{"explanation": "one two three four five six seven"}', "of 7 words; at most 6 are taken"),
        ('{"explanation": "x", "tags": "weapons"}', "tags must be a list"),
        ('{"explanation": "x", "tags": [1]}', "tags must be a list"),
        ('{"explanation": "x", "confidence": 1.5}', "confidence must be"),
        ('{"explanation": "x", "confidence": NaN}', "confidence must be"),
        ('{"explanation": "x", "confidence": true}', "confidence must be"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_anything_else_is_unparsable_and_says_why(answer: str, message: str) -> None:
    with pytest.raises(UnparsableAnswerError, match=message):
        explained(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "I cannot assist with this request.",
        '{"explanation": "I’m sorry, I can’t describe this."}',
    ],
)
def test_a_refusal_is_told_from_a_bad_form(answer: str) -> None:
    with pytest.raises(RefusedAnswerError, match="declined"):
        explained(answer)


LABELS = ["A1", "A2", "B1", "B2"]


def test_labels_become_zeros_and_ones() -> None:
    assert parse_active('{"active": ["B1", "A1", "B1"]}', labels=LABELS) == (1, 0, 1, 0)
    assert parse_active('{"active": []}', labels=LABELS) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    "named", ['["A3"]', '["a1"]', "[1]", "[null]", "[true]", '"A1"', '{"A1": 2}', '[["A1"]]']
)
def test_labels_that_were_not_asked_about_are_refused(named: str) -> None:
    with pytest.raises(UnparsableAnswerError):
        parse_active(f'{{"active": {named}}}', labels=LABELS)


def test_graded() -> None:
    assert parse_graded('{"active": {"A2": 7, "B2": 0.5}}', labels=LABELS) == (0.0, 7.0, 0.0, 0.5)


@pytest.mark.parametrize(
    "ratings", ['["A1"]', '{"A3": 1}', '{"A1": 11}', '{"A1": -1}', '{"A1": "3"}', '{"A1": true}']
)
def test_graded_refuses(ratings: str) -> None:
    with pytest.raises(UnparsableAnswerError):
        parse_graded(f'{{"active": {ratings}}}', labels=LABELS)


def test_lists_by_text() -> None:
    answer = '{"A": [0, 7.5], "B": [1]}'
    assert parse_listed(answer, sizes={"A": 2, "B": 1}, highest=10) == [(0.0, 7.5), (1.0,)]


@pytest.mark.parametrize(
    "answer",
    [
        '{"A": [0, 1]}',
        '{"A": [0, 1], "B": [1], "C": [1]}',
        '{"B": [1], "A": [0, 1]}',
        '{"A": [0], "B": [1]}',
        '{"A": [0, 2], "B": [1]}',
        '{"A": [0, true], "B": [1]}',
        '{"A": 1, "B": [1]}',
        "[[0, 1], [1]]",
    ],
)
def test_lists_of_other_lengths_or_values_are_refused(answer: str) -> None:
    with pytest.raises(UnparsableAnswerError):
        parse_listed(answer, sizes={"A": 2, "B": 1}, highest=1)


def test_ratings_of_every_token_in_order() -> None:
    answer = '[["The", 0], ["bomb", 9.5], [".", 0]]'
    assert parse_ratings(answer, tokens=["The", " bomb", "."]) == (0.0, 9.5, 0.0)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ('[["The", 0]]', "not a list of 2"),
        ('[["The", 0], ["gun", 1]]', r"item 1 is not \[' bomb', rating\]"),
        ('[["The", 0], ["bomb", 11]]', "11 is not a rating"),
        ('[["The", 0], ["bomb"]]', "item 1"),
        ('{"The": 0, "bomb": 1}', "not a list of 2"),
    ],
)
def test_ratings_of_other_tokens_are_refused(answer: str, message: str) -> None:
    with pytest.raises(UnparsableAnswerError, match=message):
        parse_ratings(answer, tokens=["The", " bomb"])


def test_a_long_answer_is_cut_in_the_message() -> None:
    with pytest.raises(UnparsableAnswerError) as caught:
        parse_active("x" * 5000, labels=["A"])
    assert len(str(caught.value)) < 200


def test_schemas_are_json() -> None:
    assert json.loads(ACTIVE_SCHEMA)["required"] == ["active"]
    assert json.loads(EXPLANATION_SCHEMA)["additionalProperties"] is False


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        ("", UnparsableAnswerError, "no explanation"),
        ("I'm sorry, I cannot.", RefusedAnswerError, "declined"),
        ("Bombs.\nAnd more.", UnparsableAnswerError, "one paragraph"),
        ('{"explanation": "Bombs"}', UnparsableAnswerError, "not a sentence"),
        ("The <<bomb|9>> fell", UnparsableAnswerError, "not a sentence"),
        ("word " * 11, UnparsableAnswerError, "11 words; at most 10"),
    ],
)
def test_what_is_no_plain_sentence_is_refused(answer: str, error: type[BadAnswerError], says: str) -> None:
    with pytest.raises(error, match=says):
        parse_sentence(answer, max_words=10)


def test_a_plain_sentence_is_the_explanation() -> None:
    assert parse_sentence(" Bombs, and  what they do. \n", max_words=10).text == "Bombs, and what they do."

"""The simulator that goes by meaning, with the real vectors."""

import asyncio
import json
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from safesail.errors import ConfigError, RefusedAnswerError
from safesail.llm.builtin_prompts import ENDPOINT
from safesail.llm.embedding import EmbeddingModel, phrases_of
from safesail.llm.factory import make_client
from safesail.llm.types import ChatClient, LLMRequest
from safesail.prompting.parse import parse_active, parse_graded, parse_ratings
from safesail.prompting.templates import load_template
from safesail.subject.minilm import load_embed
from tests.meaning import needs_embedding

pytestmark = needs_embedding


@pytest.fixture(scope="module")
def model() -> EmbeddingModel:
    return EmbeddingModel(load_embed())


def prompt(name: str, explanation: str, **values: object) -> str:
    return load_template("simulate", name).render(explanation=explanation, **values).prompt


EXPLANATION = "Violent crime, killing and assault"
BLOODY = ["The weather was mild", "when the gunman murdered", "two shopkeepers in"]
CALM = ["She baked a cake", "for her daughter's birthday", "on a sunny afternoon"]


def test_segments_of_like_meaning_are_named(model: EmbeddingModel) -> None:
    answer = model.answer(
        prompt("segment_v1", EXPLANATION, texts=[("A", BLOODY), ("B", CALM)], form="active binary")
    )
    labels = [f"{letter}{i}" for letter in "AB" for i in (1, 2, 3)]
    assert parse_active(answer, labels=labels) == (0, 1, 0, 0, 0, 0)


def test_graded_segments(model: EmbeddingModel) -> None:
    answer = model.answer(
        prompt("segment_v1", EXPLANATION, texts=[("A", BLOODY), ("B", CALM)], form="active graded")
    )
    grades = parse_graded(answer, labels=[f"{letter}{i}" for letter in "AB" for i in (1, 2, 3)])
    assert max(grades) == grades[1] >= 3


def test_every_token_is_rated_and_the_pieces_of_a_word_alike(model: EmbeddingModel) -> None:
    tokens = ["Then", " he", " murd", "ered", " them", "‹", " and", " left", "."]
    ratings = parse_ratings(
        model.answer(prompt("token_v1", EXPLANATION, tokens=json.dumps(tokens))), tokens=tokens
    )
    assert ratings[2] == ratings[3] == max(ratings) >= 3
    assert ratings[1] < ratings[2]


def test_a_word_does_not_see_what_comes_after_it(model: EmbeddingModel) -> None:
    def rated(*tokens: str) -> Sequence[float]:
        return parse_ratings(
            model.answer(prompt("token_v1", EXPLANATION, tokens=json.dumps(tokens))), tokens=tokens
        )

    assert rated("He", " was", " there", " killing")[:3] == rated("He", " was", " there", " baking")[:3]


def test_whole_texts(model: EmbeddingModel) -> None:
    texts = [("A", " ".join(CALM)), ("B", " ".join(BLOODY))]
    assert json.loads(model.answer(prompt("detection_v1", EXPLANATION, texts=texts))) == {"active": ["B"]}


def test_marks(model: EmbeddingModel) -> None:
    texts = [("A", "<<when>> the gunman murdered two"), ("B", "when the gunman <<murdered>> two")]
    assert json.loads(model.answer(prompt("fuzzing_v1", EXPLANATION, texts=texts))) == {"active": ["B"]}


def test_of_several_texts_one_is_named_but_a_single_one_may_have_none(model: EmbeddingModel) -> None:
    odd = "Chemical symbols of noble gases"
    two = model.answer(
        prompt("segment_v1", odd, texts=[("A", ["of the"]), ("B", ["to be"])], form="active binary")
    )
    one = model.answer(prompt("segment_v1", odd, texts=[("A", ["of the", "to be"])], form="active binary"))
    assert len(json.loads(two)["active"]) == 1
    assert json.loads(one) == {"active": []}


def test_the_same_prompt_has_the_same_answer_whatever_was_asked_before(model: EmbeddingModel) -> None:
    asked = [
        prompt("segment_v1", e, texts=[("A", BLOODY), ("B", CALM)], form="active graded")
        for e in (EXPLANATION, "Baking", "“cake”, “birthday”; words on weather")
    ]
    first = [model.answer(one) for one in asked]
    fresh = EmbeddingModel(load_embed())
    assert [fresh.answer(one) for one in reversed(asked)] == first[::-1]
    assert len(set(first)) == 3


def test_it_is_a_chat_client_that_bills_as_the_lexical_model_does(model: EmbeddingModel) -> None:
    request = LLMRequest(
        "embedding", ENDPOINT, "Be brief.", prompt("token_v1", EXPLANATION, tokens='["a"]'), 0.0, 300
    )
    client: ChatClient = model
    other = asyncio.run(make_client("lexical").complete(request))
    answer = asyncio.run(client.complete(request))
    assert answer.input_tokens == other.input_tokens
    assert answer.tokens <= client.worst_case(request)
    assert client.endpoint == ENDPOINT


def test_it_declines_to_explain_and_what_is_no_prompt_of_ours(model: EmbeddingModel) -> None:
    asked = load_template("explain", "v1").render(
        active=["a <<b|3>>"], controls=["c"], hint=None, tags=("insult",), max_words=60
    )
    with pytest.raises(RefusedAnswerError, match="cannot explain"):
        model.answer(asked.prompt)
    with pytest.raises(RefusedAnswerError, match="own prompts only"):
        model.answer("What is the capital of Italy?")


def test_empty_contents_are_answered(model: EmbeddingModel) -> None:
    assert model.answer(prompt("token_v1", "", tokens='["", " "]')) == '[["", 0], [" ", 0]]'
    answer = model.answer(prompt("segment_v1", "", texts=[("A", [""])], form="active binary"))
    assert json.loads(answer) == {"active": []}


def test_phrases_of_explanations() -> None:
    own = "Fires on “successor”, “ruled” (7), numbers (2); after “two” (3)."
    assert phrases_of(own) == ["successor", "ruled", "numbers", "two"]
    assert phrases_of("References to theft, robbery and fraud.") == [
        "References to theft", "robbery", "fraud",
    ]  # fmt: skip
    assert phrases_of("") == [""]


def test_the_factory_needs_a_maker_of_vectors() -> None:
    with pytest.raises(ConfigError, match="needs vectors"):
        make_client("embedding")
    client = make_client("embedding", load_embed=load_embed)
    assert isinstance(client, EmbeddingModel)


def test_vectors_have_length_one_keep_order_and_hardly_depend_on_what_stands_beside() -> None:
    embed = load_embed()
    texts = ["a cat", "an essay on " + "very " * 400 + "long texts", "", "a cat", "猫", "dogs bark"]
    vectors = embed(texts)
    assert vectors.shape == (6, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(vectors[0], vectors[3])
    for text, vector in zip(texts, vectors, strict=True):
        np.testing.assert_allclose(embed([text])[0], vector, atol=2e-6)
    assert embed([]).shape == (0, 384)
    near, far = (float(embed([a])[0] @ embed([b])[0]) for a, b in pairwise(
        ["a cat", "a kitten", "quarterly tax return"]))  # fmt: skip
    assert near > 0.6 > 0.2 > far


def test_the_text_that_does_not_belong_is_of_another_meaning(model: EmbeddingModel) -> None:
    texts = [
        "when the gunman <<murdered>> two",
        "was <<stabbed>> to death",
        "she baked a <<cake>>",
        "he <<shot>> the man",
        "they <<strangled>> the victim",
    ]
    groups = [list(zip("ABCDE", texts, strict=True)), list(zip("ABCDE", texts[::-1], strict=True))]
    asked = load_template("simulate", "intruder_v1").render(groups=groups).prompt
    assert json.loads(model.answer(asked)) == {"1": "C", "2": "C"}
    unmarked = [[("A", "no mark"), ("B", "none <<here>>"), ("C", "nor there")]]
    assert json.loads(model.answer(load_template("simulate", "intruder_v1").render(groups=unmarked).prompt))

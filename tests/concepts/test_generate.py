"""Pairs written by a chat model on loopback: what is kept, what is rejected and why, and what it costs."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from safesail.concepts.check import check_concepts
from safesail.concepts.config import GenerateConfig
from safesail.concepts.generate import GeneratedSet, GenerateOptions, generate_concept
from safesail.concepts.read import read_concepts
from safesail.errors import ConfigError, LLMError, LLMUnavailableError
from safesail.store.connection import open_reader
from safesail.store.sql import rows
from tests.loopback import Reply, Script, chat, fault, serving

FORMS = ("statement", "question", "request", "news", "dialogue")
THEFT = (
    "robbed",
    "looted",
    "raided",
    "burgled",
    "plundered",
    "mugged",
    "rifled",
    "pilfered",
    "swiped",
    "nicked",
)
PLAIN = (
    "passed",
    "painted",
    "visited",
    "admired",
    "swept",
    "greeted",
    "tidied",
    "polished",
    "lent",
    "borrowed",
)
PLACES = ("bank", "chapel", "museum", "kiosk", "farm", "villa", "depot", "jeweller", "bakery", "garage")
TIMES = ("at noon", "on Sunday", "last week")


def good(i: int) -> dict[str, str]:
    """The i-th of 300 good pairs, all different."""
    theft, place, time = i % 10, (i // 10 + i) % 10, TIMES[i // 100]
    form = FORMS[i % 5]
    frame = f"The two tall men {{}} the {PLACES[place]} near the harbour {time}."
    return {"form": form, "pos": frame.format(THEFT[theft]), "neg": frame.format(PLAIN[theft])}


def answer(pairs: Sequence[Any], keywords: Sequence[str] = ("robb*", "loot*")) -> str:
    return json.dumps({"keywords": list(keywords), "pairs": list(pairs)})


def usage(n_in: int = 280, n_out: int = 220) -> dict[str, int]:
    return {"prompt_tokens": n_in, "completion_tokens": n_out, "total_tokens": n_in + n_out}


class Writer:
    """Gives its answers in turn, then good pairs without end; keeps the requests."""

    def __init__(self, *answers: str | Reply, start: int = 0) -> None:
        self.answers, self.asked, self.next = list(answers), list[str](), start

    def __call__(self, request: dict[str, Any]) -> Reply:
        prompt = request["messages"][-1]["content"]
        self.asked.append(prompt)
        if self.answers:
            first = self.answers.pop(0)
            return first if isinstance(first, Reply) else chat(first, usage=usage())
        found = re.search(r"Write (\d+) pairs", prompt)
        assert found is not None
        start, self.next = self.next, self.next + int(found[1])
        return chat(answer([good(i) for i in range(start, self.next)]), usage=usage())


def generate(
    script: Script,
    store: Path,
    *,
    n: int = 10,
    budget: str = "20k",
    config: GenerateConfig | None = None,
    **more: Any,
) -> GeneratedSet:
    values: dict[str, Any] = {
        "name": "violence.crime.robbery", "definition": "Goods are taken by force or stealth.", "domain": None,
        "lang": "en", "keywords": (), "licence": None, "model": "m", "prices": None, "replay": False,
    }  # fmt: skip
    with serving(script) as url:
        settings: dict[str, Any] = values | {"n": n, "budget": budget, "base_url": url} | more
        wanted = GenerateOptions(**settings)
        return generate_concept(store, wanted, config or GenerateConfig(), quiet=True)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store.duckdb"


def test_what_is_written_passes_the_check(store: Path, tmp_path: Path) -> None:
    writer = Writer()
    found = generate(writer, store, n=20)
    (tmp_path / "robbery.yaml").write_text(found.as_yaml(), encoding="utf-8")
    (concept,) = read_concepts([tmp_path / "robbery.yaml"])
    assert check_concepts([concept]) == []  # no warning either: key words and all five forms are there
    assert (concept.concept_id, concept.domain, concept.leaf, len(concept.pairs)) == (
        "violence.crime.robbery", "violence", "crime", 20,
    )  # fmt: skip
    assert concept.keywords == {"en": ("robb*", "loot*")}
    assert found.as_json()["forms"] == dict.fromkeys(FORMS, 4)
    assert (found.calls, found.tokens, found.rejected) == (2, 1000, {})
    text = (tmp_path / "robbery.yaml").read_text()
    assert re.search(
        r"Written by m @ http://127\.0\.0\.1:\d+/v1, prompt concepts/generate_v1 [0-9a-f]{12}, on 20", text
    )
    # The second request shows what is there, and asks for what is missing.
    assert good(9)["pos"] in writer.asked[1]
    assert (
        "Write 10 pairs in English: 2 statement, 2 question, 2 request, 2 news, 2 dialogue."
        in writer.asked[0]
    )


def test_each_reason_is_counted(store: Path) -> None:
    pos = "The two tall men robbed the mill near the harbour at noon."
    longer = "The two tall men left the mill near the harbour at noon, all of it, and so on."
    bad = [
        {"form": "news", "pos": pos, "neg": pos},
        {"form": "news", "pos": pos, "neg": longer},
        {"form": "news", "pos": pos, "neg": "Some grey rain fell over five green hills this very morning, they say."},
        {"form": "news", "pos": pos, "neg": "The two tall men left the mill near the harbour at noon!"},
        {"form": "news", "pos": pos.replace("mill", "shop"), "neg": "The two tall men robbed no mill at the harbour."},
        {"form": "poem", "pos": pos, "neg": pos}, {"form": "news", "pos": pos}, "text",
        {"form": "news", "pos": " ", "neg": pos}, {**good(0), "why": "x"},
        good(0),
    ]  # fmt: skip
    found = generate(Writer(answer([*[good(i) for i in range(5)], *bad], ["robb*"]), start=5), store)
    assert found.rejected == {
        "malformed": 5, "equal": 1, "length": 1, "overlap": 1, "ending": 1, "keyword": 1, "duplicate": 1,
    }  # fmt: skip
    assert (len(found.draft.concept.pairs), found.ended, found.calls) == (10, "complete", 2)
    assert "10 of 10 pairs kept (rejected: 5 malformed, 1 " in found.as_text()


def test_bad_answers_are_paid_counted_and_asked_again(store: Path) -> None:
    writer = Writer(
        "I'm sorry, I can't write that.",
        chat("cut", finish="length", usage=usage()),
        chat(None, finish="content_filter", usage=usage()),
        "Here are your pairs: 1. ...",
    )
    found = generate(writer, store, config=GenerateConfig(max_fruitless=5))
    assert found.rejected == {"RefusedAnswerError": 2, "TruncatedAnswerError": 1, "UnparsableAnswerError": 1}
    assert (len(found.draft.concept.pairs), found.tokens, len(writer.asked)) == (10, 2500, 5)
    assert len(set(writer.asked)) == 1  # the same question, so only the number of the call tells them apart


def test_a_model_that_only_refuses_is_given_up(store: Path) -> None:
    with pytest.raises(LLMError) as caught:
        generate(Writer(*["Sorry, no."] * 9), store)
    assert str(caught.value) == (
        "violence.crime.robbery: 0 of 10 pairs kept (rejected: 3 RefusedAnswerError) for 1,500 new tokens;"
        " stopped: no progress; a concept needs at least 2 pairs, so nothing is written"
    )


def test_a_model_that_repeats_itself_is_given_up_and_what_there_is_is_kept(store: Path) -> None:
    same = answer([good(i) for i in range(4)])
    found = generate(Writer(*[same] * 9), store)
    assert (len(found.draft.concept.pairs), found.ended, found.calls) == (4, "no progress", 4)
    assert found.rejected == {"duplicate": 12}


def test_twenty_pairs_fit_into_five_thousand_tokens(store: Path) -> None:
    found = generate(
        Writer(answer([*[good(i) for i in range(8)], "bad", "bad"]), start=8), store, n=20, budget="5k"
    )
    assert (found.ended, len(found.draft.concept.pairs)) == ("complete", 20)


def test_a_second_run_costs_nothing_and_a_larger_budget_goes_on(store: Path) -> None:
    writer = Writer("not JSON", answer(["bad"] * 9))
    wanted: dict[str, Any] = {
        "name": "own.theft", "definition": "d", "domain": None, "lang": "en", "keywords": (), "licence": None,
        "model": "m", "prices": None, "n": 40,
    }  # fmt: skip
    with serving(writer) as url:

        def run(budget: str, *, replay: bool = False) -> GeneratedSet:
            asked = GenerateOptions(**wanted, budget=budget, base_url=url, replay=replay)
            return generate_concept(store, asked, GenerateConfig(), quiet=True)

        first = run("4k")
        n_asked = len(writer.asked)
        more = run("20k")
        assert (first.ended, more.ended) == ("budget", "complete")
        assert more.draft.pairs[: len(first.draft.pairs)] == first.draft.pairs
        assert more.tokens == 500 * (len(writer.asked) - n_asked)
        n_asked = len(writer.asked)
        again, replayed = run("20k"), run("1k", replay=True)
    assert again.draft.concept == replayed.draft.concept == more.draft.concept
    assert again.tokens == replayed.tokens == 0 < first.tokens
    assert len(writer.asked) == n_asked
    with open_reader(store) as db:
        assert rows(db, "SELECT DISTINCT stage, status FROM llm_calls") == [("concepts", "ok")]


def test_a_word_in_most_pairs_is_named_to_the_model_and_then_thinned_out(store: Path) -> None:
    def robbed(i: int) -> dict[str, str]:
        pair = good(10 * i)  # the same verb
        return {**pair, "form": FORMS[i % 5]}

    writer = Writer(answer([robbed(i) for i in range(8)], []), start=1)
    found = generate(writer, store, n=10, config=GenerateConfig(per_call=8))
    assert "Used too often, do without: robbed." in writer.asked[1]
    assert found.rejected["one-word"] >= 4
    marked = sum("robbed" in pair.pos for pair in found.draft.concept.pairs)
    assert (len(found.draft.concept.pairs), marked <= 4) == (10, True)
    assert [f for f in check_concepts([found.draft.concept]) if f.severity == "error"] == []


def test_sides_of_unlike_mean_length_are_thinned_out(store: Path) -> None:
    long = [
        {
            "form": "news",
            "pos": f"Men {w} the old {p} at night, all of it.",
            "neg": f"Men {v} the old {p} at night.",
        }
        for w, v, p in zip(THEFT, PLAIN, PLACES, strict=True)
    ]
    found = generate(Writer(answer(long[:6], [])), store, n=6, config=GenerateConfig(max_fruitless=1))
    assert found.rejected.get("length") or found.rejected["mean-length"]
    assert all(f.severity == "warning" for f in check_concepts([found.draft.concept]))


def test_key_words_that_the_models_own_twins_hold_are_not_believed(store: Path) -> None:
    writer = Writer(answer([good(i) for i in range(10)], ["two tall men", "absent", "looted", " raided "]))
    found = generate(writer, store, keywords=("heist*",))
    assert found.draft.concept.keywords == {"en": ("heist*", "looted", "raided")}


def test_a_dead_endpoint_is_one_line_and_what_was_answered_is_kept(store: Path) -> None:
    with pytest.raises(LLMUnavailableError) as caught:
        generate(Writer(answer([good(0), good(1)]), fault(404, "no model m")), store)
    assert "\n" not in str(caught.value)
    with open_reader(store) as db:
        assert rows(db, "SELECT count(*) FROM llm_calls WHERE status = 'ok'") == [(1,)]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"model": None}, "the built-in model 'lexical' cannot write texts; name a chat model with --model"),
        ({"model": "lexical"}, "the built-in model 'lexical' cannot write"),
        ({"budget": "much"}, "budget 'much' is not understood"),
        ({"name": " "}, "a concept needs a name"),
        ({"definition": "  "}, "a concept needs a name and a --definition"),
        (
            {"config": GenerateConfig(template="v9")},
            "no prompt template concepts/v9.j2; there are: generate_v1",
        ),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_asked(
    store: Path, more: dict[str, Any], message: str
) -> None:
    writer = Writer()
    with pytest.raises(ConfigError, match=re.escape(message)):
        generate(writer, store, **more)
    assert writer.asked == []


@pytest.mark.parametrize(
    ("name", "domain", "wanted"),
    [
        ("fraud.romance_scam", None, ("fraud.romance_scam", "fraud", None, "romance scam")),
        ("Romance scam", None, ("own.romance_scam", "own", None, "Romance scam")),
        ("scam", "fraud", ("fraud.scam", "fraud", None, "scam")),
        ("violence.crime.theft", None, ("violence.crime.theft", "violence", "crime", "theft")),
    ],
)  # fmt: skip
def test_names_become_ids(name: str, domain: str | None, wanted: tuple[str | None, ...]) -> None:
    asked = GenerateOptions(name, "d", domain, "en", 2, (), None, "1k", "m", None, None, False)
    concept = asked.concept()
    assert (concept.concept_id, concept.domain, concept.leaf, concept.name) == wanted

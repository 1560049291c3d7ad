from collections import Counter

import pytest

from safesail.concepts.check import Fault, check_concepts, count_pairs, has_keyword, words
from safesail.concepts.config import CheckConfig
from safesail.concepts.read import SourcedConcept, pair_id, read_concepts
from safesail.domain.records import ConceptPair
from safesail.resources import resource_dir

GOOD = [
    ("The gang robbed a bank at noon.", "The bus passed a bank at noon."),
    ("She stole the old red coat.", "She washed the old red coat."),
    ("Thieves emptied the small shop today.", "Painters emptied the small shop today."),
    ("Did he mug the tired clerk?", "Did he meet the tired clerk?"),
]


def concept(
    sides: list[tuple[str, str]],
    *,
    lang: str = "en",
    keywords: tuple[str, ...] = ("burgl*",),
    name: str = "x",
) -> SourcedConcept:
    pairs = tuple(ConceptPair(pair_id(name, lang, p, n), lang, "news", p, n) for p, n in sides)
    return SourcedConcept(
        name, "violence", None, name, "d", pairs, {lang: keywords} if keywords else {}, "x.yaml"
    )


def rules(faults: list[Fault], severity: str = "error") -> set[tuple[str, int | None]]:
    return {(f.rule, f.pair) for f in faults if f.severity == severity}


def test_good_pairs_have_no_errors() -> None:
    assert rules(check_concepts([concept(GOOD)])) == set()


@pytest.mark.parametrize(
    ("rule", "pos", "neg"),
    [
        ("equal", "The man, he ran.", "The man he ran"),
        ("length", "The robber took it all.", "The robber took it all from this boy."),
        ("overlap", "The robber took every coin away.", "Some rain fell over green hills."),
        ("ending", "The robber took it all.", "The waiter took it all!"),
        ("keyword", "The robber took it all.", "The burglar took it all."),
    ],
)
def test_each_rule_of_a_pair(rule: str, pos: str, neg: str) -> None:
    faults = check_concepts([concept([*GOOD, (pos, neg)])])
    assert (rule, 5) in rules(faults)
    assert {pair for _, pair in rules(faults)} == {5}


def test_a_word_that_marks_most_pairs_is_found() -> None:
    sides = [(f"The bomb hit {w}.", f"The rain hit {w}.") for w in ("one", "two", "three")]
    faults = [f for f in check_concepts([concept(sides)]) if f.rule == "one-word"]
    assert [f.message for f in faults] == ["the word 'bomb' alone marks the concept in 3 of 3 pairs"]


def test_common_words_do_not_mark_a_concept() -> None:
    sides = [(f"They {w} this one.", f"They {w} that one.") for w in ("saw", "met", "hit", "ate")]
    assert "one-word" not in {f.rule for f in check_concepts([concept(sides)])}


def test_duplicates_across_concepts_name_the_first() -> None:
    sides = [
        ("The gang robbed a bank at noon!", "The cat saw a bank at noon!"),
        ("He took a fine horse.", "He rode a fine horse."),
    ]
    other = concept(sides, name="y")
    faults = [f for f in check_concepts([concept(GOOD), other]) if f.rule == "duplicate"]
    assert [str(f) for f in faults] == [
        "error: x.yaml: y, pair 1: pos is also the pos of x, pair 1: The gang robbed a bank at noon!"
    ]


def test_one_side_longer_throughout_is_found_though_each_pair_passes() -> None:
    sides = [(f"He hit {w} very hard today.", f"He met {w} today here.") for w in ("Ann", "Bob", "Cy", "Di")]
    assert {f.rule for f in check_concepts([concept(sides)]) if f.severity == "error"} >= {"mean-length"}


def test_warnings_do_not_fail_a_set() -> None:
    faults = check_concepts([concept(GOOD, keywords=())])
    assert rules(faults) == set()
    assert Counter(f.rule for f in faults) == {"few": 1, "no-keywords": 1, "form": 4}
    assert check_concepts([concept(GOOD)], CheckConfig(min_pairs=0, min_per_form=0)) == []


def test_chinese_is_counted_by_characters() -> None:
    assert words("他打了我。", "zh") == ["他", "打", "了", "我"]
    bad = concept([("他打了我。", "他见了我。"), ("她骂白痴。", "她说白痴。")], lang="zh", keywords=("白痴",))
    assert rules(check_concepts([bad])) == {("keyword", 2)}


@pytest.mark.parametrize(
    ("text", "keyword", "wanted"),
    [
        ("The bombs fell", "bomb*", True),
        ("The bombs fell", "bomb", False),
        ("a time bomb.", "bomb", True),
        ("aplomb", "lomb*", False),
        ("their own kind of tea", "own kind", True),
        ("BOMB", "bomb", True),
    ],
)
def test_keywords_are_whole_words_with_open_endings(text: str, keyword: str, wanted: bool) -> None:
    assert has_keyword(text, keyword, "en") is wanted


def test_counts_by_kind() -> None:
    counts = count_pairs([concept(GOOD), concept(GOOD, name="y")])
    assert counts == [
        {"domain": "violence", "leaf": None, "lang": "en", "form": "news", "concepts": 2, "pairs": 8}
    ]


def test_the_bundled_set_passes() -> None:
    faults = check_concepts(read_concepts([resource_dir("data") / "concepts"]))
    assert [str(f) for f in faults if f.severity == "error"] == []

import json
from pathlib import Path

import pytest

from safesail.concepts.read import concept_set_hash, pair_id, read_concepts
from safesail.domain.records import ConceptPair
from safesail.errors import ConfigError
from safesail.resources import resource_dir

PAIR = '{{pos: "He hit {0}.", neg: "He met {0}."}}'


def write_yaml(path: Path, *, concept_id: str = "violence.x", pairs: str = "", extra: str = "") -> Path:
    pairs = pairs or f"[{PAIR.format('Ann')}, {PAIR.format('Bob')}]"
    path.write_text(
        f"domain: violence\nlicence: MIT\nprovenance: ours\n{extra}concepts:\n"
        f"  - id: {concept_id}\n    name: X\n    definition: About x.\n"
        f"    keywords: {{en: [hit*]}}\n    pairs: {pairs}\n",
        encoding="utf-8",
    )
    return path


def test_yaml_becomes_records(tmp_path: Path) -> None:
    (got,) = read_concepts([write_yaml(tmp_path / "v.yaml")])
    assert (got.concept_id, got.domain, got.leaf, got.name) == ("violence.x", "violence", None, "X")
    assert got.keywords == {"en": ("hit*",)}
    first = pair_id("violence.x", "en", "He hit Ann.", "He met Ann.")
    assert got.pairs[0] == ConceptPair(first, "en", "statement", "He hit Ann.", "He met Ann.")
    assert len({p.pair_id for p in got.pairs}) == 2


def test_all_three_formats_give_the_same_pairs(tmp_path: Path) -> None:
    rows = [("He hit Ann.", "He met Ann."), ("He hit “Bob”, twice.", "He met “Bob”, twice.")]
    write_yaml(
        tmp_path / "a.yaml",
        pairs="[" + ", ".join(f'{{pos: "{p}", neg: "{n}", form: news}}' for p, n in rows) + "]",
    )
    lines = [f'violence.x,"{p}","{n}",news,hit*' for p, n in rows]
    (tmp_path / "a.csv").write_text("concept,pos,neg,form,keywords\n" + "\n".join(lines), encoding="utf-8")
    objects = [
        {"concept": "violence.x", "pos": p, "neg": n, "form": "news", "keywords": ["hit*"]} for p, n in rows
    ]
    (tmp_path / "a.jsonl").write_text("\n\n".join(map(json.dumps, objects)), encoding="utf-8")
    sets = [read_concepts([tmp_path / f"a.{suffix}"]) for suffix in ("yaml", "csv", "jsonl")]
    assert len({concept_set_hash(s) for s in sets}) == 1
    assert [c.keywords for (c,) in sets] == [{"en": ("hit*",)}] * 3


def test_columns_of_a_table_are_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(
        "concept,domain,leaf,name,definition,lang,pos,neg,keywords\n"
        "c.one,mine,leafy,One,The first,de,Er schlug Ann.,Er traf Ann.,\n"
        "c.two,,,,,,He hit Bob.,He met Bob.,hit; struck\n"
        "c.one,mine,,,,de,Er schlug Bob.,Er traf Bob.,\n"
        "c.two,,,,,,He hit Cy.,He met Cy.,\n",
        encoding="utf-8",
    )
    one, two = read_concepts([path])
    assert (one.domain, one.leaf, one.name, one.definition) == ("mine", "leafy", "One", "The first")
    assert [p.lang for p in one.pairs] == ["de", "de"]
    assert (two.domain, two.name, two.keywords) == ("c", "two", {"en": ("hit", "struck")})


def test_the_hash_knows_pairs_not_order(tmp_path: Path) -> None:
    write_yaml(tmp_path / "a.yaml", concept_id="violence.a")
    write_yaml(tmp_path / "b.yaml", concept_id="violence.b")
    whole = read_concepts([tmp_path])
    assert concept_set_hash(whole) == concept_set_hash(whole[::-1])
    assert concept_set_hash(whole) != concept_set_hash(whole[:1])


def test_the_bundled_set_is_read() -> None:
    found = read_concepts([resource_dir("data") / "concepts"])
    assert len(found) >= 80
    assert {"politics", "pornography", "terror", "violence", "ordinary"} <= {c.domain for c in found}
    assert len({p.pair_id for c in found for p in c.pairs}) == sum(len(c.pairs) for c in found)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (f"[{PAIR.format('Ann')}]", "concept violence.x has 1 pair(s); a contrast needs at least 2"),
        ("[]", "concept violence.x has 0 pair(s)"),
        (f'[{PAIR.format("Ann")}, {{pos: "He hit.", neg: " "}}]', "concept violence.x, pair 2: neg is empty"),
        (f'[{PAIR.format("Ann")}, {{pos: "He hit."}}]', "concept violence.x, pair 2: neg: Field required"),
        (f"[{PAIR.format('Ann')}, {PAIR.format('Ann')}]", "concept violence.x, pair 2 repeats pair 1"),
        (
            f'[{PAIR.format("Ann")}, {{pos: "a", neg: "b", form: poem}}]',
            "pair 2: form: Input should be 'statement'",
        ),
        (f'[{PAIR.format("Ann")}, {{pos: "a", neg: "b", frm: news}}]', "pair 2: frm: Extra inputs"),
    ],
)
def test_bad_pairs_are_named(tmp_path: Path, pairs: str, message: str) -> None:
    path = write_yaml(tmp_path / "v.yaml", pairs=pairs)
    with pytest.raises(ConfigError) as caught:
        read_concepts([path])
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_duplicate_ids_are_refused(tmp_path: Path) -> None:
    write_yaml(tmp_path / "a.yaml")
    write_yaml(tmp_path / "b.yaml")
    with pytest.raises(
        ConfigError, match=r"b.yaml: concept 'violence.x' is also in .*a.yaml; ids must be unique"
    ):
        read_concepts([tmp_path])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "pos,neg\na,b\n", "row 1 names no `concept`"),
        ("a.csv", "concept,pos,neg\nx,a,b,c\n", "row 1 has more or fewer cells"),
        ("a.csv", "concept,pos,neg\nx,a,b\nx,c,\n", "concept x, pair 2: neg is empty"),
        ("a.jsonl", '{"concept": "x"', "after line 1: not readable as JSON lines"),
        ("a.jsonl", "[1]", "line 1: each line must be a JSON object"),
        ("a.yaml", "concepts: []", "domain: Field required"),
        ("a.yaml", "domain: d\nlicence: l\nprovenance: p\nconcepts: []", "the concept set is empty"),
        ("a.txt", "", "a concept set is a folder or a file in"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        read_concepts([tmp_path / name])


def test_missing_files_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no concept set at"):
        read_concepts([tmp_path / "none.yaml"])
    with pytest.raises(ConfigError, match="holds no concept set"):
        read_concepts([tmp_path])
    (tmp_path / "latin.csv").write_bytes(b"concept,pos,neg\nx,\xe9,b\n")
    with pytest.raises(ConfigError, match="is not readable as CSV"):
        read_concepts([tmp_path / "latin.csv"])

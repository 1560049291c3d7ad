"""Which features stand for a concept."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from safesail.catalog.features import concept_features
from safesail.catalog.source import open_source
from safesail.cli.main import cli
from safesail.errors import ConfigError, NotFoundError
from safesail.store.connection import open_writer
from tests.catalog.toy import SAE, TEXTS


@pytest.fixture
def store(store: Path) -> Path:
    with open_writer(store) as db:
        db.execute(
            "INSERT INTO feature_concepts VALUES ('s1', ?, 0, 'violence.insult.slur', 0.9, 0.0, 20, true),"
            " ('s1', ?, 2, 'violence.insult.slur', 0.3, 0.2, 20, false)",
            [SAE, SAE],
        )
    return store


def listed(store: Path, **options: str) -> list[int]:
    with open_source(store) as db:
        return [f.index for f in concept_features(db, **options)]  # type: ignore[arg-type]


def test_a_concepts_features_stand_by_their_lift(store: Path) -> None:
    with open_source(store) as db:
        first, second = concept_features(db, concept="slur")
    assert (first.index, first.lift, first.score, first.explanation) == (0, 0.9, 0.6, TEXTS[0])
    assert (second.index, second.concept_id) == (1, "violence.insult.slur")
    assert second.lift == pytest.approx(0.7)
    assert first.top_texts == ("They «smuggled» «people»", "They «smuggled» people")


def test_domains_concepts_and_words_narrow_each_other(store: Path) -> None:
    assert listed(store, concept="violence.insult") == [0, 1]
    assert listed(store, domain="violence") == [0, 1]
    assert listed(store, domain="illegal_goods") == [0, 3], (
        "by their tags: no concept of that domain is there"
    )
    assert listed(store, domain="fraud") == [9], "not explained, but it tells the concept apart"
    assert listed(store, text="APPLE") == [2]
    assert listed(store, domain="violence", text="slurs") == [1]
    assert listed(store, concept="slur", domain="fraud") == []


def test_a_release_lists_the_same(release: Path) -> None:
    assert listed(release, concept="slur") == [0, 1]


def test_unknown_names_say_what_there_is(store: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no concept .*; near it are violence\.insult\.slur"):
        listed(store, concept="violence.insult.slurs")
    with pytest.raises(ConfigError, match="no domain 'cooking'"):
        listed(store, domain="cooking")


def test_the_command_prints_a_table_or_json(store: Path, release: Path) -> None:
    run = CliRunner().invoke
    table = run(cli, ["catalog", "features", "--concept", "slur", "--store", str(store)]).output
    header = "feature readout lift AUC, pairs AUC, others score explanation concept top text"
    assert table.splitlines()[0].split() == header.split()
    assert table.splitlines()[1].split()[:3] == ["toy-l2#0", "-", "0.900"]
    assert "0.600  People smuggling across borders" in table.splitlines()[1]
    as_json = run(cli, ["catalog", "features", "--domain", "fraud", "--json", "--store", str(store)]).output
    assert [(f["index"], f["top_texts"]) for f in json.loads(as_json)] == [(9, [])]
    of_release = ["catalog", "features", "--concept", "slur", "--json", "--store", str(release)]
    assert [f["index"] for f in json.loads(run(cli, of_release).output)] == [0, 1]
    nothing = run(cli, ["catalog", "features", "--store", str(store)])
    assert (nothing.exit_code, "name a --concept, a --domain or a --text" in nothing.output) == (2, True)

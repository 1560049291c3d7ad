"""Full-text search: ranking, filters, scripts without spaces, and the index on disk."""

from pathlib import Path

import pytest

from safesail.catalog.api import open_catalog, search_catalog
from safesail.catalog.search import SearchIndex
from safesail.catalog.words import parse_terms
from safesail.domain.ids import FeatureId
from safesail.errors import ConfigError
from safesail.resources import cache_dir
from safesail.store.connection import open_reader, open_writer
from tests.catalog.toy import SAE, TEXTS


def found(store: Path, text: str, **options: object) -> list[int]:
    return [hit.index for hit in search_catalog(store, text, **options).hits]  # type: ignore[arg-type]


def test_word_forms_and_order(store: Path) -> None:
    assert found(store, "smuggle person people") == [0]
    assert found(store, "INSULTING quarrel") == [1]
    assert found(store, "pie slurs") == [2, 1] or found(store, "pie slurs") == [1, 2]
    assert found(store, "submarine") == []


def test_texts_with_all_words_stand_before_texts_with_some(store: Path) -> None:
    with open_writer(store) as db:
        db.execute("UPDATE explanations SET text = 'pie, and more pie, and pie once more' WHERE feature = 3")
    assert found(store, "apple pie") == [2, 3]


def test_chinese_is_found_without_spaces(store: Path) -> None:
    assert found(store, "走私") == [3]
    assert found(store, "私走") == []
    assert parse_terms("走私 gang-land") == ['"走  私"', '"gang"', '"land"']


def test_filters(store: Path) -> None:
    assert found(store, "people pie slurs", min_score=0.3) == [0, 1]
    assert found(store, "people pie slurs", domain="violence") == [1]
    assert found(store, "people pie slurs", domain="illegal_goods") == [0]
    assert found(store, "people pie slurs", limit=1) == [0]


def test_a_hit_says_what_the_catalog_knows_and_how_it_was_found(store: Path) -> None:
    result = search_catalog(store, "smuggling")
    hit = result.hits[0]
    assert (hit.sae_id, hit.layer, hit.explanation, hit.tags, hit.score) == (
        SAE,
        2,
        TEXTS[0],
        ("smuggling",),
        0.6,
    )
    assert (result.method, result.complete) == ("by words", True)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "nothing to search for"),
        ('"*() -', {}, "nothing to search for"),
        ("people", {"domain": "cooking"}, "no domain 'cooking'"),
        ("people", {"limit": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_searched_for_is_said(
    store: Path, text: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        found(store, text, **options)


@pytest.mark.parametrize(
    "text", ['pie" OR "slurs', "pie NEAR slurs", "words:pie", "pie*", "'; DROP TABLE text; --pie"]
)
def test_the_indexs_own_syntax_is_only_words(store: Path, text: str) -> None:
    assert 2 in found(store, text)


def test_common_words_are_left_out_where_a_rarer_one_is_asked_for(store: Path) -> None:
    with open_writer(store) as db:
        db.execute("INSERT INTO features (sae_id, feature) SELECT ?, i FROM range(100, 2100) t(i)", [SAE])
        db.execute(
            "INSERT INTO explanations (explanation_id, sae_id, feature, text, explainer, origin)"
            " SELECT 'x' || i, ?, i, 'people and words', 'w', 'run' FROM range(100, 2100) t(i)",
            [SAE],
        )
    result = search_catalog(store, "people smuggling")
    assert [hit.index for hit in result.hits] == [0]
    assert result.method == "by words; too common to count: people"
    assert len(search_catalog(store, "people", limit=50).hits) == 50


@pytest.mark.parametrize("n", [1_000, 6_000])
def test_a_filter_looks_past_the_best_matches(store: Path, n: int) -> None:
    with open_writer(store) as db:
        db.execute("INSERT INTO features (sae_id, feature) SELECT ?, 100 + i FROM range(?) t(i)", [SAE, n])
        db.execute(
            "INSERT INTO explanations (explanation_id, sae_id, feature, text, explainer, origin)"
            " SELECT 'x' || i, ?, 100 + i, 'insults', 'w', 'run' FROM range(?) t(i)",
            [SAE, n],
        )
    assert found(store, "insults", domain="violence") == [1], "the longest text is ranked last"


def test_the_index_is_kept_and_built_again_when_texts_change(store: Path) -> None:
    found(store, "pie")
    (path,) = (cache_dir() / "search").iterdir()
    before = path.stat().st_mtime_ns
    found(store, "pie")
    assert path.stat().st_mtime_ns == before
    with open_writer(store) as db:
        db.execute("INSERT INTO tags VALUES (?, 2, 'weapons', 'person', NULL)", [SAE])
    assert found(store, "pie", domain="terror") == [2]
    assert len(list((cache_dir() / "search").iterdir())) == 1, "tags are no part of the index"
    with open_writer(store) as db:
        db.execute("UPDATE explanations SET text = 'bread' WHERE feature = 2")
    assert found(store, "pie") == []
    assert found(store, "bread") == [2]


def test_a_cache_that_cannot_be_used_is_no_fault(store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with open_reader(store) as db:
        for folder in (tmp_path / "file" / "search", tmp_path / "search"):
            index = SearchIndex(db, folder).add_words()
            assert [hit.index for hit in index.search("pie").hits] == [2]
            index.close()
        (path,) = (tmp_path / "search").iterdir()
        path.write_bytes(b"damaged" * 100)
        index = SearchIndex(db, tmp_path / "search").add_words()
        assert [hit.index for hit in index.search("pie").hits] == [2]
        index.close()


def test_masked_texts_cannot_be_searched(store: Path) -> None:
    with open_writer(store) as db:
        db.execute("UPDATE explanations SET text = NULL, masked = true WHERE feature = 0")
    assert found(store, "people smuggling") == []


def test_an_open_catalog_searches_many_times(store: Path) -> None:
    with open_catalog(store) as catalog:
        assert [catalog.search("pie").hits[0].index for _ in range(3)] == [2, 2, 2]
        assert catalog.show(FeatureId(SAE, 2)).explanations[0].text == TEXTS[2]

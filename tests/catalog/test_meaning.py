"""Search by meaning, with the real vectors: what words miss, filters, the file of vectors, and both fused."""

from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from safesail.catalog import meaning
from safesail.catalog.api import open_catalog
from safesail.catalog.embedder import MiniLMEmbedder, open_index
from safesail.catalog.meaning import Embedder, MeaningIndex
from safesail.catalog.search import SearchIndex, fuse
from safesail.cli.main import cli
from safesail.errors import ConfigError
from safesail.resources import cache_dir
from safesail.store.connection import open_reader, open_writer
from tests.meaning import needs_embedding


class Counted:
    """MiniLM, and how many texts it was given."""

    def __init__(self) -> None:
        self._inner = MiniLMEmbedder()
        self.name, self.d_vector = self._inner.name, self._inner.d_vector
        self.texts: list[str] = []

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.texts.extend(texts)
        return self._inner.embed(texts)


@pytest.fixture(scope="module")
def embedder() -> Counted:
    return Counted()


@pytest.fixture(autouse=True)
def fresh(request: pytest.FixtureRequest) -> Generator[None, None, None]:
    yield
    if "embedder" in request.fixturenames:
        request.getfixturevalue("embedder").texts.clear()


def found(store: Path, embedder: Embedder, text: str, **options: object) -> list[int]:
    with open_reader(store) as db:
        index = SearchIndex(db).add_meaning(embedder)
        return [hit.index for hit in index.search(text, **options).hits]  # type: ignore[arg-type]


@needs_embedding
def test_a_paraphrase_that_words_miss_is_found(store: Path, embedder: Counted) -> None:
    asked = "human trafficking over frontiers"
    with open_reader(store) as db:
        assert SearchIndex(db).add_words().search(asked).hits == ()
    assert found(store, embedder, asked)[0] == 0
    assert found(store, embedder, "verbal abuse")[0] == 1
    assert found(store, embedder, "baking a dessert")[0] == 2


@needs_embedding
def test_what_is_like_nothing_is_not_found(store: Path, embedder: Counted) -> None:
    assert found(store, embedder, "quarterly tax return of a bank") == []


@needs_embedding
def test_filters_look_past_the_nearest(store: Path, embedder: Counted) -> None:
    assert 1 in found(store, embedder, "people smuggling or insults in quarrels")
    assert found(store, embedder, "people smuggling or insults in quarrels", domain="violence") == [1]
    assert found(store, embedder, "baking a dessert", min_score=0.3) == []
    assert found(store, embedder, "people smuggling or insults in quarrels", limit=1) == [1]
    assert found(store, embedder, "insults in quarrels or smuggling", limit=1, domain="illegal_goods") == [0]


class Lengths:
    """Vectors that say how long a text is: all of one length are nearest to each other."""

    name, d_vector = "lengths", 2

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        angles = np.array([len(text) for text in texts]) / 100
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


@pytest.mark.parametrize("n", [1_000, 6_000])
def test_a_filter_looks_past_many_nearer_ones(store: Path, n: int) -> None:
    with open_writer(store) as db:
        sae_id = db.execute("SELECT sae_id FROM features WHERE feature = 1").fetchall()[0][0]
        db.execute("INSERT INTO features (sae_id, feature) SELECT ?, 100 + i FROM range(?) t(i)", [sae_id, n])
        db.execute(
            "INSERT INTO explanations (explanation_id, sae_id, feature, text, explainer, origin)"
            " SELECT 'x' || i, ?, 100 + i, 'near', 'w', 'run' FROM range(?) t(i)",
            [sae_id, n],
        )
    assert found(store, Lengths(), "text", domain="violence") == [1]


@needs_embedding
def test_vectors_are_kept_and_made_anew_when_a_text_changes(store: Path, embedder: Counted) -> None:
    found(store, embedder, "dessert")
    assert len(embedder.texts) == 5, "four explanations and the query"
    found(store, embedder, "dessert")
    assert embedder.texts[5:] == ["dessert"]
    (path,) = (cache_dir() / "search").glob("*.npy")
    assert embedder.name in path.name
    with open_writer(store) as db:
        db.execute("UPDATE explanations SET text = 'Whales and dolphins' WHERE feature = 2")
    assert found(store, embedder, "baking a dessert") == []
    assert found(store, embedder, "marine mammals") == [2]


@needs_embedding
def test_masked_and_empty_explanations_have_no_vector(store: Path, embedder: Counted) -> None:
    with open_writer(store) as db:
        db.execute("UPDATE explanations SET text = NULL, masked = true WHERE feature = 0")
        db.execute("UPDATE explanations SET text = ' ' WHERE feature = 1")
    assert 0 not in found(store, embedder, "human trafficking over frontiers")
    assert sorted(embedder.texts) == sorted(
        ["Recipes for apple pie", "走私人口的犯罪团伙", "human trafficking over frontiers"]
    )


@needs_embedding
def test_a_damaged_file_or_no_place_for_one_is_no_fault(
    store: Path, embedder: Counted, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with open_reader(store) as db:
        for folder in (tmp_path / "file" / "search", tmp_path / "search"):
            index = SearchIndex(db, folder).add_meaning(embedder)
            assert index.search("baking a dessert").hits[0].index == 2
        (path,) = (tmp_path / "search").iterdir()
        whole = path.read_bytes()
        for damaged in (whole[:-8], b"", b"junk" * 100):
            path.write_bytes(damaged)
            index = SearchIndex(db, tmp_path / "search").add_meaning(embedder)
            assert index.search("a dessert").hits[0].index == 2
            assert path.read_bytes() == whole
    assert list((tmp_path / "search").iterdir()) == [path]


@needs_embedding
def test_an_empty_catalog_finds_nothing(tmp_path: Path, embedder: Counted) -> None:
    with open_writer(tmp_path / "empty.duckdb"):
        pass
    assert found(tmp_path / "empty.duckdb", embedder, "anything") == []


@needs_embedding
def test_both_and_the_same_again(store: Path, embedder: Counted) -> None:
    with open_reader(store) as db:
        index = SearchIndex(db).add_words().add_meaning(embedder)
        results = [index.search("smuggling humans for dessert") for _ in range(2)]
    assert results[0] == results[1]
    assert results[0].method == "by words and meaning"
    assert {hit.index for hit in results[0].hits} == {0, 2}
    assert results[0].hits[0].index == 0, "found by both"
    with open_catalog(store, embedder=embedder) as catalog:
        assert catalog.search("human trafficking over frontiers").hits[0].index == 0


@needs_embedding
@pytest.mark.parametrize("text", ["", "*() -"])
def test_a_query_without_words_is_refused(store: Path, embedder: Counted, text: str) -> None:
    with pytest.raises(ConfigError, match="nothing to search for"):
        found(store, embedder, text)


def test_an_empty_query_is_refused_before_anything_is_made(store: Path) -> None:
    command = ["catalog", "search", " ", "--by", "both", "--store", str(store)]
    assert "nothing to search for" in str(CliRunner().invoke(cli, command).exception)
    assert not (cache_dir() / "search").exists()


def test_fusion_by_hand() -> None:
    fused = fuse([[(1, 9.0), (2, 8.0)], [(3, 0.9), (2, 0.8)]])
    assert [(number, round(rank, 6)) for number, rank in fused] == [
        (2, round(2 / 62, 6)), (1, round(1 / 61, 6)), (3, round(1 / 61, 6)),
    ]  # fmt: skip


class Planted:
    """Vectors by name, for catalogs too large for a real model."""

    name, d_vector = "planted", 384

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self._vectors = vectors

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._vectors[[int(text) for text in texts]]


def test_large_catalogs_are_compared_in_few_directions_first(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(200, 384))
    vectors = (np.repeat(centres, 100, axis=0) + 0.7 * rng.normal(size=(20_000, 384))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kept = vectors.astype(np.float16)
    exact = MeaningIndex(Planted(vectors), kept)
    monkeypatch.setattr(meaning, "EXACT", 1000)
    monkeypatch.setattr(meaning, "CANDIDATES", 400)
    quick = MeaningIndex(Planted(vectors), kept)
    asked = [str(q) for q in range(0, 20_000, 400)]
    shares = [len(set(exact.nearest(q, 10, None)) & set(quick.nearest(q, 10, None))) / 10 for q in asked]
    assert np.mean(shares) > 0.95
    allowed = np.arange(len(vectors)) % 100 == 7
    assert all(number % 100 == 7 for number, _ in quick.nearest("0", 10, allowed))
    assert quick.nearest("0", 10, allowed)[0] == exact.nearest("0", 10, allowed)[0]


def test_without_the_extra_words_are_searched_and_it_is_said(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safesail.subject.minilm.PACKAGE", "no_such_package")
    with open_reader(store) as db:
        index, note = open_index(db, None, quiet=True)
        assert index.method == "by words"
        assert note is not None
        assert "pip install 'safesail[embedding]'" in note
        assert "\n" not in note
        assert open_index(db, "words", quiet=True)[1] is None
        for by in ("meaning", "both"):
            with pytest.raises(ConfigError, match=r"pip install 'safesail\[embedding\]'"):
                open_index(db, by, quiet=True)


@needs_embedding
def test_a_large_catalog_without_vectors_is_searched_by_words_unless_asked(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safesail.catalog.embedder.MADE_UNASKED", 3)
    with open_reader(store) as db:
        index, note = open_index(db, None, quiet=True)
        assert index.method == "by words"
        assert note is not None
        assert "4 explanations have no vectors yet: --by both makes them" in note
        assert open_index(db, "meaning", quiet=True)[0].method == "by meaning"
        index, note = open_index(db, None, quiet=True)
        assert (index.method, note) == ("by words and meaning", None)

"""Differences between catalogs, and blind spots of one."""

import shutil
from pathlib import Path

import pytest

from safesail.catalog.coverage import ConceptCover, coverage
from safesail.catalog.diff import Entry, Moved, compare, diff
from safesail.domain.ids import FeatureId, content_id
from safesail.errors import NotFoundError
from safesail.store.connection import open_writer
from tests.catalog.toy import SAE


def f(index: int) -> FeatureId:
    return FeatureId("s", index)


def test_differences_by_hand() -> None:
    a = {
        f(0): Entry("x", 0.5, 0.4, 0.6),
        f(1): Entry("x", 0.5, 0.4, 0.6),
        f(2): Entry("x", 0.5, 0.4, 0.6),
        f(3): Entry("x", 0.5, None, None),
        f(4): Entry("x", None, None, None),
        f(5): Entry("x", 0.1, 0.0, 0.2),
        f(7): Entry("x", None, None, None, ("fraud", "hate")),
        f(8): Entry("x", None, None, None, ("fraud", "hate")),
    }
    b = {
        f(0): Entry("x", 0.55, 0.45, 0.65),  # within
        f(1): Entry("x", 0.8, 0.7, 0.9),  # beyond
        f(2): Entry("y", 0.5, 0.4, 0.6),  # another text
        f(3): Entry("x", 0.6, 0.5, 0.7),  # who can tell
        f(4): Entry("x", 0.6, 0.5, 0.7),  # scored since
        f(6): Entry("z", None, None, None),
        f(7): Entry("x", None, None, None, ("hate", "fraud")),
        f(8): Entry("x", None, None, None, ("hate",)),
    }
    found = compare(a, b)
    assert (found.added, found.lost, found.reexplained) == ((f(6),), (f(5),), (f(2),))
    assert found.moved == (Moved(f(1), 0.5, 0.8),)
    assert found.unsure == (Moved(f(3), 0.5, 0.6),)
    assert found.retagged == (f(8),)
    assert found.same == 3
    back = compare(b, a)
    assert (back.added, back.lost, back.moved) == (found.lost, found.added, (Moved(f(1), 0.8, 0.5),))


def test_a_release_is_no_different_from_its_store_until_that_changes(store: Path, release: Path) -> None:
    found = diff(release, store)
    assert (found.added, found.lost, found.reexplained, found.moved, found.unsure) == (
        (),
    ) * 5 and not found.retagged
    assert found.same == 4
    with open_writer(store) as db:
        db.execute("INSERT INTO tags VALUES (?, 3, 'fraud', 'person', 1)", [SAE])
        db.execute("UPDATE scores SET value = 0.9, low = 0.8, high = 1 WHERE feature = 2")
        db.execute("DELETE FROM explanations WHERE feature = 1")
    found = diff(release, store)
    assert found.moved == (Moved(FeatureId(SAE, 2), 0.2, 0.9),)
    assert (found.reexplained, found.retagged) == ((FeatureId(SAE, 1),), (FeatureId(SAE, 3),))
    with pytest.raises(NotFoundError):
        diff(store, store.parent / "nowhere")


def test_blind_spots_among_concepts(store: Path) -> None:
    found = coverage(store)
    assert found.concepts == (
        ConceptCover("fraud.phishing.mail", "fraud", "phishing", 2, SAE, 1, 0, None),
        ConceptCover("violence.insult.slur", "violence", "insult", 2, SAE, 1, 1, 0.4),
    )
    assert found.blind_spots() == {("fraud", 2): (1, 1), ("violence", 2): (0, 1)}
    with open_writer(store) as db:
        db.execute("DELETE FROM feature_concepts")
    assert {c.sae_id for c in coverage(store).concepts} == {None}


def test_blind_spots_among_texts(store: Path) -> None:
    texts = ["covered", "whole but silent", "kept in part", "never seen"]
    with open_writer(store) as db:
        db.execute("UPDATE documents SET document_id = ? WHERE document_id = 'd0'", [content_id(texts[0])])
        db.execute("UPDATE windows SET document_id = ? WHERE document_id = 'd0'", [content_id(texts[0])])
        db.execute("INSERT INTO documents VALUES (1, ?, 'f', 'train', 3, true, ''), (1, ?, 'f', 'train', 3, false, '')",
                   [content_id(texts[1]), content_id(texts[2])])  # fmt: skip
    found = {t.text: (t.state, t.n_features, t.strongest) for t in coverage(store, texts).texts}
    # feature 0 fires at 3.0 in the first text, past its 0.9 quantile of 2.0; feature 1 at 0.5 does not
    assert found == {
        "covered": ("covered", 1, 0),
        "whole but silent": ("uncovered", 0, None),
        "kept in part": ("unknown", 0, None),
        "never seen": ("unknown", 0, None),
    }
    assert [t.text for t in coverage(store, texts).uncovered()] == ["whole but silent"]
    strict = coverage(store, texts, min_score=0.7)
    assert {t.text for t in strict.uncovered()} == {"covered", "whole but silent"}


def test_a_release_has_concepts_but_no_texts(store: Path, release: Path, tmp_path: Path) -> None:
    shutil.copytree(release, tmp_path / "copy")
    found = coverage(tmp_path / "copy", ["text 0"])
    assert [c.concept_id for c in found.concepts] == ["fraud.phishing.mail", "violence.insult.slur"]
    assert [t.state for t in found.texts] == ["unknown"]

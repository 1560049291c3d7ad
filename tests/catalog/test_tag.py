"""Tags by hand."""

from pathlib import Path

import pandas as pd
import pytest

from safesail.catalog.api import show
from safesail.catalog.config import ReleaseOptions
from safesail.catalog.release import build_release
from safesail.catalog.tag import clear_tag, reject_tag, set_tag
from safesail.domain.ids import FeatureId
from safesail.errors import ConfigError, NotFoundError
from safesail.store.connection import open_writer
from tests.catalog.toy import SAE


def tags(store: Path, index: int) -> set[tuple[str, str, int | None]]:
    return {(t.tag, t.source, t.severity) for t in show(store, FeatureId(SAE, index)).tags}


def test_a_persons_tag_stands_beside_the_others_and_survives_a_rerun(store: Path) -> None:
    feature = FeatureId(SAE, 1)
    set_tag(store, feature, "terror", severity=3)
    set_tag(store, feature, "terror", severity=2)
    with open_writer(store) as db:  # as the explainer does when it runs again
        db.execute("DELETE FROM tags WHERE feature = 1 AND source = 'explainer'")
        db.execute("INSERT INTO tags VALUES (?, 1, 'insult', 'explainer', NULL)", [SAE])
    assert tags(store, 1) == {
        ("violence", "concepts", None), ("insult", "explainer", None), ("terror", "person", 2)}  # fmt: skip


def test_a_rejected_tag_is_hidden_whoever_gives_it(store: Path, tmp_path: Path) -> None:
    feature = FeatureId(SAE, 1)
    reject_tag(store, feature, "insult")
    assert tags(store, 1) == {("violence", "concepts", None)}
    build_release(store, tmp_path / "r", ReleaseOptions(name="toy"))
    released = pd.read_parquet(tmp_path / "r/tags.parquet")
    assert released[released["index"] == 1]["tag"].tolist() == ["violence"]
    assert clear_tag(store, feature, "insult")
    assert not clear_tag(store, feature, "insult")
    assert ("insult", "explainer", None) in tags(store, 1)


def test_unknown_tags_features_and_severities_are_refused(store: Path) -> None:
    with pytest.raises(ConfigError, match="no tag 'pie' in the taxonomy"):
        set_tag(store, FeatureId(SAE, 1), "pie")
    with pytest.raises(NotFoundError, match="no feature other#1"):
        set_tag(store, FeatureId("other", 1), "terror")
    with pytest.raises(ConfigError, match="severity runs from 1 to 3, not 0"):
        set_tag(store, FeatureId(SAE, 1), "terror", severity=0)

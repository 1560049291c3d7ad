"""Lists of features."""

from pathlib import Path

import numpy as np
import pytest

from safesail.errors import ConfigError
from safesail.harvest.config import HarvestConfig
from safesail.harvest.feature_list import features_to_keep
from safesail.harvest.run import HarvestJob, run_harvest
from safesail.sae.protocol import SAE
from safesail.store.connection import Db
from safesail.store.sql import rows, value
from safesail.subject.protocol import Subject
from tests.harvest.conftest import D_SAE

LISTED = HarvestConfig(features="listed")


def test_a_list_keeps_its_features_only(
    db: Db, subject: Subject, saes: list[SAE], text_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "features.txt"
    path.write_text("# mine\ntiny-l0#3\n\n tiny-l2#39 \ntiny-l0#3\n", encoding="utf-8")
    keep = features_to_keep(db, [sae.info for sae in saes], LISTED, path)
    assert keep is not None
    assert {name: np.flatnonzero(mask).tolist() for name, mask in keep.items()} == {
        "tiny-l0": [3],
        "tiny-l2": [39],
    }
    config = LISTED.model_copy(update={"n_ctx": 16, "whole_documents": 0})
    run_harvest(db, HarvestJob(subject, saes, [str(text_file)], config, keep), quiet=True)
    stored = rows(
        db, "SELECT DISTINCT sae_id, feature FROM activations JOIN saes USING (sae_key) ORDER BY 1, 2"
    )
    assert set(stored) <= {("tiny-l0", 3), ("tiny-l2", 39)} and stored
    # Everything is counted, kept or not.
    assert value(db, "SELECT count(*) FROM features WHERE n_active > 0") > 30


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "names no feature; write SAE#INDEX"),
        (b"tiny-l0#3\nother#1\n", "line 2: no feature other#1 in tiny-l0, tiny-l2"),
        (f"tiny-l0#{D_SAE}".encode(), f"line 1: no feature tiny-l0#{D_SAE}"),
        (b"tiny-l0", "tiny-l0"),
        (b"\xff\xfe", "cannot be read as a list of features"),
    ],
)
def test_a_bad_list_is_said_in_one_line(
    db: Db, saes: list[SAE], tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "features.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        features_to_keep(db, [sae.info for sae in saes], LISTED, path)
    assert "\n" not in str(caught.value)


def test_a_list_that_is_not_there(db: Db, saes: list[SAE], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read as a list of features"):
        features_to_keep(db, [sae.info for sae in saes], LISTED, tmp_path / "none.txt")
    with pytest.raises(ConfigError, match="needs a file of features"):
        features_to_keep(db, [sae.info for sae in saes], LISTED)

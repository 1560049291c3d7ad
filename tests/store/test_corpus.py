"""The share of a harvest's tokens on which a feature is stronger, held against all that is stored."""

from pathlib import Path

import numpy as np
import pytest

from safesail.harvest.config import HarvestConfig
from safesail.harvest.run import HarvestJob, run_harvest
from safesail.sae.protocol import SAE
from safesail.store.corpus import harvested_as, share_higher
from safesail.store.sql import Db, rows
from safesail.subject.protocol import Subject
from tests.harvest.conftest import saes as saes
from tests.harvest.conftest import subject as subject
from tests.harvest.conftest import text_file as text_file


@pytest.mark.parametrize("precision", ["f32", "u8"])
def test_shares_are_those_counted_one_by_one(
    db: Db, subject: Subject, saes: list[SAE], text_file: Path, precision: str
) -> None:
    config = HarvestConfig.read({"n_ctx": 16, "precision": precision}, "test")
    run_harvest(db, HarvestJob(subject, saes, [str(text_file)], config), quiet=True)
    sae = saes[1].info
    assert harvested_as(db, [sae.sha256, "0" * 64]) == {sae.sha256: sae.sae_id}
    stored = np.array(rows(db, "SELECT feature, value FROM activations WHERE sae_key = 2"))
    assert len(stored) > 100
    draw = np.random.default_rng(0)
    feature = draw.choice(stored[:, 0], 300).astype(np.int32)
    value = (draw.choice(stored[:, 1], 300) * draw.choice([0.5, 1.0, 1.5], 300)).astype(np.float32)
    ((n_tokens,),) = rows(db, "SELECT max(n_tokens) FROM features")
    values = stored[:, 1].astype(np.float32)
    counted = [
        ((stored[:, 0] == f) & (values > v)).sum() / n_tokens for f, v in zip(feature, value, strict=True)
    ]
    assert share_higher(db, sae.sae_id, feature, value).tolist() == pytest.approx(counted)
    assert 0 < np.mean(np.array(counted) > 0) < 1


def test_a_feature_that_is_not_kept_whole_has_no_share(
    db: Db, subject: Subject, saes: list[SAE], text_file: Path
) -> None:
    run_harvest(db, HarvestJob(subject, saes, [str(text_file)], HarvestConfig(n_ctx=16)), quiet=True)
    ((feature,),) = rows(db, "SELECT feature FROM activations WHERE sae_key = 1 LIMIT 1")
    db.execute("DELETE FROM activations_f32 WHERE sae_key = 1 AND feature = ? AND value < 1", [feature])
    share = share_higher(db, saes[0].info.sae_id, np.array([feature], np.int32), np.array([2.0], np.float32))
    assert np.isnan(share).all()

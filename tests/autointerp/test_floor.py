"""The built-in model, from windows to scores, on features planted in real text."""

import asyncio

import numpy as np
import pytest

from safesail.autointerp.config import ExplainConfig, ScoringConfig
from safesail.autointerp.explainer import explain
from safesail.autointerp.simulator import score_feature
from safesail.domain.ids import FeatureId
from safesail.domain.records import Exemplar, Explanation, Score, Split
from safesail.llm.lexical import LexicalModel
from safesail.store.connection import Db
from tests.made_windows import metered
from tests.planted import noise, planted, windows

N_FEATURES = 8


def pick(number: int, split: Split) -> list[Exemplar]:
    found = sorted(
        (planted(number, w) for w in windows(split)), key=lambda e: noise(e.window.document_id, split)
    )
    active = [e for e in found if e.level][:8] + [e for e in found if e.kind == "active" and not e.level][:2]
    return active + [e for e in found if e.kind == "random"][:10]


@pytest.mark.parametrize("method", ["segment", "token"])
def test_planted_features_score_far_above_chance(db: Db, method: str) -> None:
    client = metered(db, LexicalModel())
    config = ScoringConfig.model_validate({"method": method, "draws": 50})

    async def run() -> list[Score]:
        explained: dict[FeatureId, Explanation] = {}
        for number in range(N_FEATURES):
            shown = pick(number, "train")
            found = await explain(client, shown[0].feature, shown, ExplainConfig(), q999=10.0)
            assert isinstance(found, Explanation)
            explained[found.feature] = found
        others = [*list(explained.values())[1:], *explained.values()]
        scores: list[Score] = []
        for (feature, explanation), other in zip(explained.items(), others, strict=False):
            score = await score_feature(client, explanation, pick(feature.index, "test"), config, other=other)
            assert isinstance(score, Score)
            scores.append(score)
        return scores

    scores = asyncio.run(run())
    values = [s.value for s in scores if s.value is not None]
    chances = [s.chance for s in scores if s.chance is not None]
    assert len(values) == N_FEATURES
    assert np.mean(values) - np.mean(chances) > 0.4, (values, chances)
    better = [s.value > s.chance for s in scores if s.value is not None and s.chance is not None]
    assert all(better), (values, chances)

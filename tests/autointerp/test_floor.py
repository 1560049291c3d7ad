"""The built-in model, from windows to scores, on features planted in real text."""

import asyncio

import numpy as np
import pytest

from safesail.autointerp.explain_config import ExplainConfig
from safesail.autointerp.explainer import Explainer
from safesail.autointerp.score_feature import chance_partner, score_feature
from safesail.autointerp.scoring_config import ScoringConfig
from safesail.domain.ids import FeatureId
from safesail.domain.records import Exemplar, Explanation, Split
from safesail.llm.lexical import LexicalModel
from safesail.store.connection import Db
from safesail.store.explanations import DetailedScore
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
    explainer = Explainer(client, ExplainConfig())
    config = ScoringConfig.model_validate({"method": method, "draws": 50})

    async def run() -> list[DetailedScore]:
        explained: dict[FeatureId, Explanation] = {}
        for number in range(N_FEATURES):
            shown = pick(number, "train")
            active = [e for e in shown if e.kind == "active"]
            controls = [e for e in shown if e.kind != "active"]
            found = await explainer.explain(shown[0].feature, active, controls, q999=10.0)
            assert isinstance(found, Explanation)
            explained[found.feature] = found
        partners = chance_partner(list(explained), seed=0)
        scores: list[DetailedScore] = []
        for feature, explanation in explained.items():
            other = explained[partners[feature]]
            score = await score_feature(client, explanation, pick(feature.index, "test"), config, other=other)
            assert isinstance(score, DetailedScore)
            scores.append(score)
        return scores

    scores = asyncio.run(run())
    values = [s.value for s in scores if s.value is not None]
    chances = [s.chance for s in scores if s.chance is not None]
    assert len(values) == N_FEATURES
    assert np.mean(values) - np.mean(chances) > 0.4, (values, chances)
    better = [s.value > s.chance for s in scores if s.value is not None and s.chance is not None]
    assert all(better), (values, chances)

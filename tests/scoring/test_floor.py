"""The built-in model, from windows to scores, on features planted in real text."""

import asyncio
import hashlib
import json
import re

import numpy as np
import pytest

from safesail.domain.ids import FeatureId
from safesail.domain.records import Exemplar, Explanation, Split, Window
from safesail.explain.config import ExplainConfig
from safesail.explain.explainer import Explainer
from safesail.llm.lexical import LexicalModel
from safesail.resources import resource_dir
from safesail.scoring.config import ScoringConfig
from safesail.scoring.run import chance_partner, score_feature
from safesail.store.connection import Db
from safesail.store.explanations import DetailedScore
from tests.made_windows import metered

PLANTED = {
    0: r" ?(?:attack|kill|bomb|shoot|murder|stab|assault)\w*",
    1: r" (?:court|judge|lawyer|jury|trial|prosecut|sentenc)\w*",
    2: r" (?:money|bank|pay|paid|price|account|debt)\w*",
    3: r" (?:vote|minister|parliament|election|party|president)\w*",
    4: r" (?:he|she|his|her)",
    5: r" \d+",
    6: r" (?:said|asked|told)",
    7: r" (?:doctor|nurse|patient|hospital|medic|drug)\w*",
}
"""Tokens on which a feature fires, by number."""


def documents() -> list[str]:
    folder = resource_dir("data") / "texts"
    lines = [
        line
        for name in ("ordinary", "safety")
        for line in (folder / f"{name}.jsonl").read_text().splitlines()
    ]
    return [json.loads(line)["text"] for line in lines]


def windows(split: Split) -> list[Window]:
    found: list[Window] = []
    for number, text in enumerate(documents()):
        if (number % 2 == 0) != (split == "train"):
            continue
        tokens = re.findall(r" ?\w+| ?[^\w\s]|\s", text)
        for start in range(0, len(tokens) - 63, 64):
            piece = tuple(tokens[start : start + 64])
            found.append(Window(f"d{number}", start, tuple(range(64)), piece, split))
    return found


def noise(*parts: object) -> float:
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def planted(number: int, window: Window) -> Exemplar:
    """Strength 4 to 10 on nine in ten of its tokens, and weak activity on one in a hundred of all others."""
    activations: list[float] = []
    for i, token in enumerate(window.tokens):
        draw = noise(number, window.document_id, window.start + i)
        if re.fullmatch(PLANTED[number], token, re.I):
            activations.append(4.0 + 6.0 * draw if draw < 0.9 else 0.0)
        else:
            activations.append(1.0 if draw < 0.01 else 0.0)
    active = max(activations) > 0
    kind = "active" if active else "random"
    return Exemplar(FeatureId("planted", number), window, tuple(activations), kind, int(max(activations) > 2))


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
        for number in PLANTED:
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
    assert len(values) == len(PLANTED)
    assert np.mean(values) - np.mean(chances) > 0.4, (values, chances)
    better = [s.value > s.chance for s in scores if s.value is not None and s.chance is not None]
    assert all(better), (values, chances)

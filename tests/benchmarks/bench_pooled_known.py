"""Is a right explanation told from a wrong one as well by pooled scoring, at equal tokens an explanation?

Features planted in real texts (`tests/planted.py`): what each fires on is known on every window, so they pool as
features of a store do. AUC: how often a right explanation's score is above a shuffled one's; intervals are 95 %
bootstraps over features. Beside it the segment and the token method at the same tokens, as in `bench_planted`.

    python -m tests.benchmarks.bench_pooled_known [SIMULATOR ...]
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from safesail.autointerp.config import PoolConfig, ScoringConfig
from safesail.autointerp.pool_scorer import ask_pool
from safesail.autointerp.pools import Gathered, PoolWindow, shuffled
from safesail.autointerp.score import agreement
from safesail.domain.ids import FeatureId
from safesail.domain.records import Exemplar
from safesail.domain.undefined import Undefined
from safesail.llm.budget import parse_budget
from safesail.llm.builtin import BuiltinModel
from safesail.llm.lexical import LexicalModel
from safesail.llm.metered import MeteredClient
from safesail.metrics.correlation import auc, bootstrap_interval
from safesail.prompting.marking import crop
from tests.benchmarks.bench_planted import N_SHUFFLES, held_out, run
from tests.benchmarks.bench_planted import shuffled as permuted
from tests.planted import PLANTED, planted
from tests.study import MemoryLedger, embedding

BUDGETS = (500, 1_000, 2_000)
CONFIG = ScoringConfig(method="pooled", draws=1, pool=PoolConfig(features=16))
FEATURES = [FeatureId("planted", i) for i in range(len(PLANTED))]


def pooled_scores(model: BuiltinModel, told: dict[FeatureId, FeatureId], budget: int) -> list[float]:
    """Score of every feature by the explanation of the one that `told` names, for `budget` tokens each."""
    client = MeteredClient(model, MemoryLedger(), parse_budget("unlimited"))
    gathered = {feature: Gathered() for feature in FEATURES}
    turn, left = 0, float(budget)
    while True:
        texts = {f: PLANTED[told[f].index].explanation for f in shuffled(FEATURES, "order", turn)}
        windows = shuffled([w for f in FEATURES for w in _contributed(f, turn)], "windows", turn)
        said, tokens, _ = asyncio.run(ask_pool(client, texts, windows, CONFIG))
        left -= tokens / len(FEATURES)
        if left < 0:
            break
        for feature, of in gathered.items():
            of.add(feature, said, CONFIG, ())
        turn += 1
    figures = [agreement(g.simulation.windows, draws=1, seed=0).pearson for g in gathered.values()]
    return [0.0 if isinstance(value, Undefined) else value for value in figures]


def _contributed(feature: FeatureId, turn: int) -> list[PoolWindow]:
    windows = held_out(feature.index, 0)
    kinds = [[e for e in windows if (e.kind == "active") == active] for active in (True, False)]
    return [
        _cut(feature, e) for of, n in zip(kinds, (2, 1), strict=True) for e in of[turn * n : (turn + 1) * n]
    ]


def _cut(owner: FeatureId, exemplar: Exemplar) -> PoolWindow:
    start, stop = crop(exemplar.activations, CONFIG.pool.tokens_before, CONFIG.pool.tokens_after)
    window = exemplar.window
    truth = {f: planted(f.index, window).activations[start:stop] for f in FEATURES}
    return PoolWindow(owner, (window.document_id, window.start + start), window.tokens[start:stop], truth)


def figures(model: BuiltinModel, budget: int) -> dict[str, Any]:
    """AUC by one simulator at one budget."""
    right = pooled_scores(model, {f: f for f in FEATURES}, budget)
    wrong = [pooled_scores(model, permuted(FEATURES, s), budget) for s in range(N_SHUFFLES)]
    scores = np.array([right, *wrong]).T
    interval = bootstrap_interval(lambda i: _auc(scores, i), len(FEATURES), 2000, seed=0)
    value = _auc(scores, np.arange(len(FEATURES)))
    return {
        "auc": None if isinstance(value, Undefined) else round(value, 3),
        "interval": [round(v, 3) for v in interval] if isinstance(interval, tuple) else None,
        "mean_right": round(float(scores[:, 0].mean()), 3),
        "mean_shuffled": round(float(scores[:, 1:].mean()), 3),
    }


def _auc(scores: np.ndarray, features: Sequence[int] | np.ndarray) -> float | Undefined:
    drawn = scores[features]
    labels = np.zeros(drawn.shape, dtype=bool)
    labels[:, 0] = True
    return auc(labels.ravel(), drawn.ravel())


def main() -> None:
    """Run and print."""
    result: dict[str, Any] = {}
    for name in sys.argv[1:] or ["lexical", "embedding"]:
        model = LexicalModel() if name == "lexical" else embedding()
        for budget in BUDGETS:
            result[f"{name} pooled {budget}"] = figures(model, budget)
            for method in ("segment", "token"):
                config = ScoringConfig.model_validate(
                    {"method": method, "draws": 1, "windows_per_call": 6 if budget < 2_000 else 20}
                )
                result[f"{name} {method} {budget}"] = run(model, config, budget, 0)
    sys.stdout.write(json.dumps({"features": len(FEATURES), **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()

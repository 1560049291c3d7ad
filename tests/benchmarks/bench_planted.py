"""How well is a right explanation told from another feature's, for a given number of tokens an explanation?

Features are planted in real texts (`tests/planted.py`), so the right explanation is known, in a person's words. Each
explanation is scored on as many held-out windows as its budget pays for, by segments and by tokens. AUC: how often
the right one scores above a shuffled one, over all pairs of a right and a shuffled score; intervals are 95 %
bootstraps over features. An undefined score, or none because the budget pays for no window, counts as 0.

    python -m tests.benchmarks.bench_planted [SEED [SIMULATOR ...]]     a few minutes
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from safesail.autointerp.config import ScoringConfig
from safesail.autointerp.score import agreement
from safesail.autointerp.simulator import batches_of, context_of, simulate
from safesail.autointerp.units import Simulated
from safesail.domain.ids import FeatureId
from safesail.domain.records import Exemplar, Explanation
from safesail.domain.undefined import Undefined
from safesail.llm.budget import parse_budget
from safesail.llm.lexical import LexicalModel
from safesail.llm.metered import MeteredClient
from safesail.llm.types import ChatClient
from safesail.metrics.correlation import auc, bootstrap_interval
from tests.planted import PLANTED, noise, planted, windows
from tests.study import MemoryLedger, embedding

BUDGETS = (1_000, 5_000, 10_000)
N_WINDOWS = 130
N_SHUFFLES = 3


@cache
def held_out(number: int, seed: int) -> tuple[Exemplar, ...]:
    """Windows of a feature, at most half of them active."""
    found = sorted(
        (planted(number, w) for w in windows("test")),
        key=lambda e: noise(seed, e.window.document_id, e.window.start),
    )
    active = [e for e in found if e.kind == "active"][: N_WINDOWS // 2]
    return (*active, *[e for e in found if e.kind == "random"][: len(active)])


async def score(
    model: ChatClient, text: str, shown: Sequence[Exemplar], config: ScoringConfig, budget: int
) -> tuple[float, int]:
    """(score, windows paid for): batches are asked about until the next one costs more than is left."""
    client = MeteredClient(model, MemoryLedger(), parse_budget("unlimited"))
    bought: list[Simulated] = []
    left = budget
    for batch in batches_of(shown, config.calls_windows):
        found = await simulate(client, text, batch, config, context_of(shown[0].feature, config))
        left -= found.tokens
        if left < 0:
            break
        bought += found.windows
    value = agreement(bought, draws=1, seed=0).pearson
    return (0.0 if isinstance(value, Undefined) else value), len(bought)


def shuffled(features: list[FeatureId], seed: int) -> dict[FeatureId, FeatureId]:
    """For every feature another one, each taken once: one cycle in random order."""
    order = np.random.default_rng(seed).permutation(len(features)).tolist()
    return {features[a]: features[b] for a, b in zip(order, [*order[1:], order[0]], strict=True)}


def run(model: ChatClient, config: ScoringConfig, budget: int, seed: int) -> dict[str, Any]:
    """AUC by one simulator and method at one budget."""
    features = [FeatureId("planted", i) for i in range(len(PLANTED))]
    partners = [shuffled(features, seed + s) for s in range(N_SHUFFLES)]
    scores = np.zeros((len(features), 1 + N_SHUFFLES))
    counts: list[int] = []
    for i, feature in enumerate(features):
        shown = held_out(i, seed)
        for k, other in enumerate([feature, *(p[feature] for p in partners)]):
            claim = Explanation(feature, PLANTED[other.index].explanation, (), "a person", "-")
            scores[i, k], n = asyncio.run(score(model, claim.text, shown, config, budget))
            counts.append(n)
    value, interval = _auc(scores, np.arange(len(features))), None
    drawn = bootstrap_interval(lambda i: _auc(scores, i), len(features), 2000, seed=0)
    if isinstance(drawn, tuple):
        interval = [round(v, 3) for v in drawn]
    return {
        "auc": None if isinstance(value, Undefined) else round(value, 3),
        "interval": interval,
        "windows": round(float(np.mean(counts)), 1),
        "mean_right": round(float(scores[:, 0].mean()), 3),
        "mean_shuffled": round(float(scores[:, 1:].mean()), 3),
    }


def _auc(scores: np.ndarray, features: np.ndarray) -> float | Undefined:
    drawn = scores[features]
    labels = np.zeros(drawn.shape, dtype=bool)
    labels[:, 0] = True
    return auc(labels.ravel(), drawn.ravel())


def main() -> None:
    """Run and print."""
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    asked = sys.argv[2:] or ["lexical", "embedding"]
    simulators = {name: LexicalModel() if name == "lexical" else embedding() for name in asked}
    result: dict[str, Any] = {}
    for simulator, model in simulators.items():
        for method in ("segment", "token"):
            for budget in BUDGETS:
                # The smallest budget does not pay for twenty windows at once.
                config = ScoringConfig.model_validate(
                    {"method": method, "draws": 1, "windows_per_call": 6 if budget < 2_000 else 20}
                )
                result[f"{simulator} {method} {budget}"] = run(model, config, budget, seed)
    sys.stdout.write(json.dumps({"features": len(PLANTED), "seed": seed, **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()

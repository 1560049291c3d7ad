"""Do the built-in simulators tell true explanations from false ones, on puzzles made by people?

Each puzzle is a set of short sentences with activations, one true explanation and several false ones, all in
people's words. AUC: how often a true explanation scores above a false one of the same puzzle, ties one half;
intervals are 95 % bootstraps over puzzles. An undefined score counts as 0.

Pooled, all explanations of a puzzle share a prompt with its sentences: nobody knows what one puzzle's feature does on
another's. `tokens`: billed per explanation.

    python -m tests.benchmarks.bench_neuron_puzzles [--puzzles FILE] [--simulators NAME ...]     about a minute
"""

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from safesail.autointerp.config import ScoringConfig
from safesail.autointerp.pool_scorer import ask_pool
from safesail.autointerp.pools import Gathered, PoolWindow
from safesail.autointerp.score import correlation
from safesail.domain.ids import FeatureId
from safesail.domain.records import Exemplar, Explanation, Window
from safesail.domain.undefined import Undefined
from safesail.llm.budget import parse_budget
from safesail.llm.lexical import LexicalModel
from safesail.llm.metered import MeteredClient
from safesail.llm.types import ChatClient
from safesail.metrics.correlation import bootstrap_interval
from tests.study import Claim, MemoryLedger, embedding, score_all

PUZZLES = Path(__file__).parents[3] / "shared/data/neuron_puzzles/puzzles.json"
METHODS = {
    "pooled": ScoringConfig(method="pooled"),
    "segment": ScoringConfig(method="segment", draws=1),
    "token": ScoringConfig(method="token", draws=1),
}


def claims_of(number: int, puzzle: dict[str, Any]) -> list[Claim]:
    """The true explanation, then the false ones, each with all sentences."""
    feature = FeatureId("puzzle", number)
    windows = [_window(feature, place, sentence) for place, sentence in enumerate(puzzle["sentences"])]
    texts = [puzzle["explanation"], *puzzle["false_explanations"]]
    return [(Explanation(feature, text, (), "a person", "-"), windows) for text in texts]


def _window(feature: FeatureId, place: int, sentence: list[str | list[Any]]) -> Exemplar:
    tokens = tuple(token if isinstance(token, str) else str(token[0]) for token in sentence)
    activations = tuple(0.0 if isinstance(token, str) else float(token[1]) for token in sentence)
    window = Window(f"sentence {place}", 0, tuple(range(len(tokens))), tokens, "test")
    return Exemplar(feature, window, activations, "active" if max(activations) > 0 else "random", 1)


def pooled_scores(claims: list[Claim], model: ChatClient, config: ScoringConfig) -> tuple[list[float], float]:
    """Scores of all explanations of one puzzle, asked about together, and tokens per explanation."""
    client = MeteredClient(model, MemoryLedger(), parse_budget("unlimited"))
    told = {FeatureId("claim", i): e.text for i, (e, _) in enumerate(claims)}
    windows = [
        PoolWindow(
            FeatureId("claim", 0),
            (e.window.document_id, 0),
            e.window.tokens,
            dict.fromkeys(told, e.activations),
        )
        for e in claims[0][1]
    ]
    said, tokens, _ = asyncio.run(ask_pool(client, told, windows, config))
    values: list[float] = []
    for feature in told:
        gathered = Gathered()
        gathered.add(feature, said, config, ())
        value = correlation(gathered.simulation.windows)
        values.append(0.0 if isinstance(value, Undefined) else value)
    return values, tokens / len(told)


def run(puzzles: dict[str, Any], model: ChatClient, config: ScoringConfig) -> dict[str, Any]:
    """AUC by one simulator and method."""
    scores: dict[str, list[float]] = {}
    tokens: list[float] = []
    for number, (name, puzzle) in enumerate(puzzles.items()):
        claims = claims_of(number, puzzle)
        if config.method == "pooled":
            scores[name], each = pooled_scores(claims, model, config)
        else:
            scored = score_all(claims, model, config)
            scores[name], each = [v or 0.0 for v in scored.values], scored.mean_tokens
        tokens.append(each)
    shares = np.array(
        [np.mean([(v[0] > w) + 0.5 * (v[0] == w) for w in v[1:]]) for v in scores.values()], dtype=float
    )
    interval = bootstrap_interval(lambda i: float(shares[i].mean()), len(shares), 2000, seed=0)
    return {
        "tokens": round(float(np.mean(tokens))),
        "auc": round(float(shares.mean()), 3),
        "interval": [round(v, 3) for v in interval] if isinstance(interval, tuple) else None,
        "solved": [name for name, v in scores.items() if v[0] > max(v[1:])],
        "true_scores": {name: round(v[0], 3) for name, v in scores.items()},
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--puzzles", type=Path, default=PUZZLES)
    parser.add_argument("--simulators", nargs="+", default=["lexical", "embedding"])
    asked = parser.parse_args()
    path: Path = asked.puzzles
    if not path.is_file():
        sys.stdout.write(json.dumps({"skipped": "no puzzles.json; name one with --puzzles"}) + "\n")
        return
    puzzles = json.loads(path.read_text(encoding="utf-8"))
    simulators: dict[str, ChatClient] = {
        name: LexicalModel() if name == "lexical" else embedding() for name in asked.simulators
    }
    result = {
        simulator: {method: run(puzzles, model, config) for method, config in METHODS.items()}
        for simulator, model in simulators.items()
    }
    sys.stdout.write(json.dumps({"puzzles": len(puzzles), **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()

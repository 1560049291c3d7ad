"""Do the built-in simulators tell true explanations from false ones, on puzzles made by people?

Each puzzle is a set of short sentences with activations, one true explanation and several false ones, all in
people's words. AUC: how often a true explanation scores above a false one of the same puzzle, ties one half;
intervals are 95 % bootstraps over puzzles. An undefined score counts as 0.

    python -m tests.benchmarks.bench_neuron_puzzles [--puzzles FILE]     about a minute
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from safesail.autointerp.config import ScoringConfig
from safesail.domain.ids import FeatureId
from safesail.domain.records import Exemplar, Explanation, Window
from safesail.llm.lexical import LexicalModel
from safesail.llm.types import ChatClient
from safesail.metrics.correlation import bootstrap_interval
from tests.study import Claim, embedding, score_all

PUZZLES = Path(__file__).parents[3] / "shared/data/neuron_puzzles/puzzles.json"
METHODS = {
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


def run(puzzles: dict[str, Any], model: ChatClient, config: ScoringConfig) -> dict[str, Any]:
    """AUC by one simulator and method."""
    scores: dict[str, list[float]] = {}
    for number, (name, puzzle) in enumerate(puzzles.items()):
        scores[name] = [v or 0.0 for v in score_all(claims_of(number, puzzle), model, config).values]
    shares = np.array(
        [np.mean([(v[0] > w) + 0.5 * (v[0] == w) for w in v[1:]]) for v in scores.values()], dtype=float
    )
    interval = bootstrap_interval(lambda i: float(shares[i].mean()), len(shares), 2000, seed=0)
    return {
        "auc": round(float(shares.mean()), 3),
        "interval": [round(v, 3) for v in interval] if isinstance(interval, tuple) else None,
        "solved": [name for name, v in scores.items() if v[0] > max(v[1:])],
        "true_scores": {name: round(v[0], 3) for name, v in scores.items()},
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--puzzles", type=Path, default=PUZZLES)
    path: Path = parser.parse_args().puzzles
    if not path.is_file():
        sys.stdout.write(json.dumps({"skipped": "no puzzles.json; name one with --puzzles"}) + "\n")
        return
    puzzles = json.loads(path.read_text(encoding="utf-8"))
    simulators: dict[str, ChatClient] = {"lexical": LexicalModel(), "embedding": embedding()}
    result = {
        simulator: {method: run(puzzles, model, config) for method, config in METHODS.items()}
        for simulator, model in simulators.items()
    }
    sys.stdout.write(json.dumps({"puzzles": len(puzzles), **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()

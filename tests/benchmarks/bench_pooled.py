"""What does a score cost, how reliable is it, and does it agree with rating every token of every held-out window?

The same explanations scored pooled, by segments and by tokens, by the two built-in simulators and by an oracle that
knows the truth and errs. Tokens are those of a feature's score with its chance line, by the built-in rule and by
SmolLM2's tokenizer. Reliability: correlation over features of the scores of two halves of the windows, corrected to
the whole. Agreement: correlation over features with the token score over ALL held-out windows, by the same simulator.

    python -m tests.benchmarks.bench_pooled [--store FILE] [--rounds N] [--simulators NAME ...] [--plot FILE]

Prints one JSON object. Without --store the demo pipeline makes one first. `--add FILE` takes the rows of an earlier
run into the figure.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from safesail.autointerp.config import ExemplarConfig, PoolConfig, ScoringConfig
from safesail.autointerp.exemplars import collect
from safesail.autointerp.simulator import context_of, make_request, simulate
from safesail.autointerp.units import units_of
from safesail.domain.ids import FeatureId
from safesail.domain.records import Exemplar, Explanation
from safesail.llm.budget import parse_budget
from safesail.llm.builtin import BuiltinModel
from safesail.llm.builtin_prompts import count_tokens, write_ratings
from safesail.llm.lexical import LexicalModel
from safesail.llm.metered import CallRecord, MeteredClient
from safesail.llm.types import LLMRequest
from safesail.pipeline.run import run_pipeline
from safesail.resources import cache_dir, resource_dir
from safesail.store.connection import Db, open_reader
from safesail.store.exemplars import find_feature
from safesail.store.explanations import explained_features, read_explanation
from safesail.store.selection import best_sae
from safesail.store.token_table import TokenTables
from tests.pool_study import (
    Count,
    Split,
    SplitOracle,
    pool_rounds,
    rate_tokens,
    read_split,
    real_counter,
    reliability,
    score_of_sides,
    split_oracle,
)
from tests.study import MemoryLedger, compared, embedding

HELD_OUT = ExemplarConfig(n_active=20, n_random=10, n_hard=10)
SEGMENT_WINDOWS = (10, 20, 40)
TOKEN_WINDOWS = (4, 10, 20, 40)
COUNTED = 8
"""Features on which the token method's prompts are counted."""


def main() -> None:
    """Run, draw what was asked for, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", type=Path)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--simulators", nargs="+", default=["lexical", "oracle", "embedding"])
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--add", type=Path)
    asked = parser.parse_args()
    started = time.process_time()
    real = real_counter(cache_dir() / "models" / "smollm2")
    rows: list[dict[str, Any]] = json.loads(asked.add.read_text())["rows"] if asked.add else []
    with TemporaryDirectory() as folder, open_reader(asked.store or _demo(Path(folder))) as db:
        sae_id = best_sae(db)
        features = [FeatureId(sae_id, j) for j in explained_features(db, sae_id)]
        explanations = [read_explanation(db, f) for f in features]
        held_out = [collect(db, f, "test", HELD_OUT) for f in features]
        split = read_split(db, features)
        for name in asked.simulators:
            rows += of_simulator(db, name, explanations, held_out, split, (asked.rounds, real))
        lookup = lookup_figures(db, features, split)
    if asked.plot:
        plot(rows, asked.plot)
    result = {
        "features": len(features),
        "windows": len(split.tokens),
        "lookup_over_all_windows": lookup,
        "rows": rows,
        "cpu_seconds": round(time.process_time() - started),
    }
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


def _demo(folder: Path) -> Path:
    run_pipeline(resource_dir("pipelines") / "demo.yaml", out=folder, quiet=True)
    return folder / "safesail.duckdb"


def of_simulator(
    db: Db,
    name: str,
    explanations: Sequence[Explanation],
    held_out: Sequence[Sequence[Exemplar]],
    split: Split,
    asked: tuple[int, Count],
) -> list[dict[str, Any]]:
    """Rows of one simulator, by method and size."""
    rounds, real = asked
    oracle = split_oracle(split, explanations, worst=0.8) if name == "oracle" else None
    model = oracle or (LexicalModel() if name == "lexical" else embedding())
    ratings = [_token_ratings(model, e, split) for e in explanations]
    truth = [split.truth[e.feature] for e in explanations]
    everything = [score_of_sides(t, r) for t, r in zip(truth, ratings, strict=True)]
    rows = [_token_row(n, held_out, split, ratings, everything, real) for n in TOKEN_WINDOWS]
    rows += [_segment_row(n, model, explanations, held_out, everything, real) for n in SEGMENT_WINDOWS]
    scoring = ScoringConfig(method="pooled", draws=200, pool=PoolConfig(min_rounds=1, max_rounds=rounds))
    found = pool_rounds(db, model, explanations, scoring)
    for i in range(rounds):
        widths = [b - a for interval in found.covered[i] if interval for a, b in [interval]]
        rows.append({
            "method": "pooled", "rounds": i + 1, **_counted(found.calls[i], len(explanations), real, lines=1),
            "reliability": _rounded(reliability(*found.halves[i])) if i else None,
            "agreement": compared(found.values[i], everything)["pearson"],
            "mean": _mean(found.values[i]), "chance": _mean(found.chance[i]),
            "interval": _rounded(float(np.mean(widths))) if widths else None,
        })  # fmt: skip
    return [{"simulator": name, **row} for row in rows]


def _token_ratings(
    model: BuiltinModel | SplitOracle, explanation: Explanation, split: Split
) -> Sequence[Any]:
    if isinstance(model, SplitOracle):
        return model.believed[explanation.text]
    return rate_tokens(model, explanation.text, split)


def _token_row(
    n: int,
    held_out: Sequence[Sequence[Exemplar]],
    split: Split,
    ratings: Sequence[Sequence[Any]],
    everything: Sequence[float | None],
    real: Count,
) -> dict[str, Any]:
    """The token method on `n` windows of each feature."""
    number = {place: i for i, place in enumerate(split.places)}
    values: list[float | None] = []
    halves: tuple[list[float | None], list[float | None]] = ([], [])
    calls: list[tuple[LLMRequest, str]] = []
    config = ScoringConfig(method="token")
    for feature, (windows, of) in enumerate(zip(held_out, ratings, strict=True)):
        shown = _mixed(windows)[:n]
        said = [of[number[e.window.document_id, e.window.start]] for e in shown]
        true = [np.array(e.activations) for e in shown]
        values.append(score_of_sides(true, said))
        for parity in (0, 1):
            halves[parity].append(score_of_sides(true[parity::2], said[parity::2]))
        if feature < COUNTED:
            for exemplar, rated in zip(shown, said, strict=True):
                (units,) = units_of([exemplar], config)
                request = make_request("x", "Fires on words (4).", [units], config)
                calls.append((request, write_ratings(units.texts, rated.astype(int).tolist())))
    tokens = {
        name: round(2 * sum(count(r.system) + count(r.prompt) + count(a) for r, a in calls) / COUNTED)
        for name, count in (("tokens", count_tokens), ("tokens_smollm2", real))
    }
    return {
        "method": "token", "windows": n, **tokens, "reliability": _rounded(reliability(*halves)),
        "agreement": compared(values, everything)["pearson"], "mean": _mean(values),
    }  # fmt: skip


def _segment_row(
    n: int,
    model: BuiltinModel | SplitOracle,
    explanations: Sequence[Explanation],
    held_out: Sequence[Sequence[Exemplar]],
    everything: Sequence[float | None],
    real: Count,
) -> dict[str, Any]:
    """The segment method on `n` windows of each feature."""
    ledger = MemoryLedger()
    client = MeteredClient(model, ledger, parse_budget("unlimited"))
    config = ScoringConfig(method="segment", draws=1)
    values: list[float | None] = []
    halves: tuple[list[float | None], list[float | None]] = ([], [])
    for explanation, windows in zip(explanations, held_out, strict=True):
        context = context_of(explanation.feature, config)
        said = asyncio.run(simulate(client, explanation.text, _mixed(windows)[:n], config, context)).windows
        true, rated = [np.array(w.units.true) for w in said], [np.array(w.predicted) for w in said]
        values.append(score_of_sides(true, rated))
        # Windows of one answer come in the order of their places, which knows nothing of what they hold.
        for parity in (0, 1):
            halves[parity].append(score_of_sides(true[parity::2], rated[parity::2]))
    return {
        "method": "segment", "windows": n, **_counted(ledger.calls, len(explanations), real, lines=2),
        "reliability": _rounded(reliability(*halves)), "agreement": compared(values, everything)["pearson"],
        "mean": _mean(values),
    }  # fmt: skip


def _mixed(windows: Sequence[Exemplar]) -> list[Exemplar]:
    """Active ones and controls in turn, so that any first part and every other one have their share of both."""
    active = [e for e in windows if e.kind == "active"]
    controls = [e for e in windows if e.kind != "active"]
    pairs = [windows for pair in zip(active, controls, strict=False) for windows in pair]
    rest = [*active[len(controls) :], *controls[len(active) :]]
    # Two and two, so that halves of every other window hold both kinds.
    blocks = [pairs[i : i + 4] for i in range(0, len(pairs), 4)]
    return [b[j] for b in blocks for j in (0, 2, 1, 3) if j < len(b)] + rest


def _counted(
    calls: Iterable[tuple[LLMRequest, CallRecord]], n: int, real: Count, *, lines: int
) -> dict[str, Any]:
    """Tokens per feature by both rules; `lines`: 2 where the chance line is asked for as the score is."""
    billed = counted = 0
    for request, record in calls:
        assert record.answer is not None
        billed += record.answer.tokens
        counted += sum(map(real, (request.system, request.prompt, record.answer.text)))
    return {"tokens": round(lines * billed / n), "tokens_smollm2": round(lines * counted / n)}


def lookup_figures(db: Db, features: Sequence[FeatureId], split: Split) -> float | None:
    """Mean score of the token table over all held-out windows, token by token."""
    tables = TokenTables(db)
    values: list[float | None] = []
    for feature in features:
        table = tables.table(find_feature(db, feature))
        said = [np.array([table.get(token, 0.0) for token in tokens]) for tokens in split.tokens]
        values.append(score_of_sides(split.truth[feature], said))
    return _mean(values)


def _mean(values: Iterable[float | None]) -> float | None:
    found = [v for v in values if v is not None]
    return _rounded(sum(found) / len(found)) if found else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Reliability against tokens, a panel per simulator."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(r["simulator"] for r in rows))
    figure = Figure(figsize=(4.2 * len(names), 4), layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names), sharey=True)), names, strict=True):
        for method, style in (("pooled", "o-"), ("segment", "s--"), ("token", "^:")):
            of = [r for r in rows if (r["simulator"], r["method"]) == (name, method) and r["reliability"]]
            axes.plot([r["tokens"] for r in of], [r["reliability"] for r in of], style, label=method, ms=4)
        axes.set(xscale="log", title=name, xlabel="tokens per feature, chance line included", ylim=(0, 1))
        axes.axhline(0.74, color="grey", lw=0.7)
        axes.axhline(0.9, color="grey", lw=0.7)
    figure.axes[0].set_ylabel("reliability")
    figure.axes[0].legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()

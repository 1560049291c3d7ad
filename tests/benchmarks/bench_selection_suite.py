"""Does the selection figure tell what explanation later finds? The nine SmolLM2 SAEs that come with Safe-SAIL.

Before: the figures of every SAE on the bundled concept pairs (English), and what users look at instead. After:
the same number of features of every SAE, spread over the domains, is explained and scored on the bundled texts
by the demonstration's settings and the built-in rule `lexical`; the outcome is how many score above the chance
line, and how well. `lexical` explains features of single words best, whatever they have to do with a concept;
so the two last outcomes count only features that also tell a concept, or whose explanation names one. Nine SAEs
of which seven differ in k alone are few: every figure has its interval.

    python -m tests.benchmarks.bench_selection_suite [--store FOLDER] [--per-domain N] [--plot FILE]

With --store a killed run goes on where it was. JSON on standard output, a table on standard error.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import safesail
from safesail.errors import ConfigError
from safesail.pipeline.config import PipelineConfig, find_pipeline
from safesail.store.connection import open_writer
from tests.benchmarks import suite_stats as stats
from tests.benchmarks.suite_stages import SaeFigures, measure, options, try_features

DRAWS = 1000
Result = dict[str, Any]


def gather(folder: Path, per_domain: int, *, quiet: bool) -> tuple[list[SaeFigures], list[stats.Tried]]:
    """Figures of every SAE, and what came of its features."""
    config = PipelineConfig.from_yaml(find_pipeline("demo"))
    tried: list[stats.Tried] = []
    with open_writer(folder / "suite.duckdb") as db:
        saes = measure(db, config, folder / "baselines.json", quiet=quiet)
        for sae in saes:
            found = options(db, sae.sae_id, config.selection.controls, config.min_windows)
            chosen = stats.choose(found, per_domain)
            tried += try_features(db, sae.sae_id, chosen, config, quiet=quiet)
    return saes, tried


def check_code(folder: Path) -> None:
    """Refuse a folder that other code has filled: its scores would be those of an older simulator.

    Raises:
        ConfigError: the code has changed since.
    """
    digest = hashlib.sha256()
    for path in sorted(Path(safesail.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    mark = folder / "code.sha256"
    if not mark.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        mark.write_text(digest.hexdigest(), encoding="utf-8")
    elif mark.read_text(encoding="utf-8") != digest.hexdigest():
        raise ConfigError(f"{folder} was filled by other code; name another --store, or remove it")


def evaluate(saes: Sequence[SaeFigures], tried: Sequence[stats.Tried]) -> Result:
    """Every figure against every outcome."""
    sae_ids = [sae.sae_id for sae in saes]
    domains = sorted(saes[0].by_domain)
    table = stats.build_table(tried, sae_ids, domains)
    weights = stats.resample(table, DRAWS, seed=0)
    layers = [sae.layer for sae in saes]
    same_layer = np.array([layer == max(layers, key=layers.count) for layer in layers])
    result: Result = {
        "n_saes": len(saes),
        "n_saes_that_differ_in_k_only": int(same_layer.sum()),
        "spearman_that_chance_exceeds_in_5_percent": stats.chance_spearman(len(saes)),
        "saes": [sae_row(sae, table, [t for t in tried if t.sae_id == sae.sae_id]) for sae in saes],
        "cells": cells(table),
        "outcomes": {},
    }
    for outcome, measured in stats.MEASURES.items():
        found = stats.outcomes(table, measured, weights)
        verdicts = [
            stats.judge(
                name,
                np.array([sae.overall[name] for sae in saes]),
                np.array([[sae.by_domain[d][name] for d in domains] for sae in saes]),
                found,
                same_layer,
                sae_ids,
            )
            for name in saes[0].overall
        ]
        result["outcomes"][outcome] = {
            "reliability": stats.reliability(table, measured, draws=500, seed=0),
            "best": sae_ids[int(found.sae.argmax())],
            "by_sae": dict(zip(sae_ids, found.sae.tolist(), strict=True)),
            "interval_by_sae": {
                s: stats.bounds(list(d)) for s, d in zip(sae_ids, found.drawn.T, strict=True)
            },
            "regret_of_a_random_pick": stats.random_regret(found.sae),
            "figures": [asdict(v) for v in verdicts],
        }
    return result


def sae_row(sae: SaeFigures, table: stats.Table, tried: Sequence[stats.Tried]) -> Result:
    """One SAE, before and after."""
    own = table.sae_ids.index(sae.sae_id)
    line = stats.chance_line(tried)
    return {
        "sae": sae.sae_id,
        **sae.overall,
        "pair_isolation_interval": [sae.low, sae.high],
        "n_candidates": sae.n_candidates,
        "tried": len(tried),
        "tried_candidates": sum(t.candidate for t in tried),
        "scored": sum(t.value is not None for t in tried),
        "mean_lift": float(np.mean([t.lift for t in tried])),
        "chance_line": line,
        **{name: float(stats.by_sae(table, m)[own]) for name, m in stats.MEASURES.items()},
    }


def cells(table: stats.Table) -> list[Result]:
    """One row for each SAE and domain."""
    found = {name: stats.by_cell(table, m) for name, m in stats.MEASURES.items()}
    return [
        {"sae": s, "domain": d, "tried": int(table.weights[i, j].sum())}
        | {name: float(of[i, j]) for name, of in found.items()}
        for i, s in enumerate(table.sae_ids)
        for j, d in enumerate(table.domains)
    ]


def text(result: Result) -> str:
    """The result for people."""
    lines = [
        f"{'SAE':24} {'pair_isolation':>9} {'tried':>5} {'above':>5} {'score':>6} {'score above':>11} {'chance':>6}"
    ]
    lines += [
        f"{r['sae']:24} {r['pair_isolation']:9.3f} {r['tried']:5d} {r['above chance']:5.0f} {r['mean score']:6.3f}"
        f" {r['mean score of those above chance']:11.3f} {r['tagged above chance']:6.0f} {r['chance_line']:6.3f}"
        for r in result["saes"]
    ]
    needed = result["spearman_that_chance_exceeds_in_5_percent"]
    lines.append(f"\n{result['n_saes']} SAEs: unrelated orders exceed |{needed:.2f}| in 5 % of cases")
    for name, o in result["outcomes"].items():
        lines.append(
            f"\n{name}: reliability {number(o['reliability'])}, best {o['best']},"
            f" regret of a random pick {o['regret_of_a_random_pick']:.3f}"
        )
        lines.append(
            f"{'figure':30} {'Spearman':>8} {'95 % interval':>17} {'features only':>17} {'layer':>6}"
            f" {'cells':>6} {'95 % interval':>17} {'within':>6} {'regret':>6} {'95 % interval':>17}  picked"
        )
        lines += [line(v) for v in o["figures"]]
    return "\n".join(lines)


def line(v: Mapping[str, Any]) -> str:
    """One figure against one outcome."""
    return (
        f"{v['figure']:30} {number(v['spearman']):>8} {interval(v['interval']):>17}"
        f" {interval(v['interval_features']):>17} {number(v['spearman_same_layer']):>6}"
        f" {number(v['spearman_cells']):>6} {interval(v['interval_cells']):>17}"
        f" {number(v['spearman_within_domains']):>6} {v['regret']:6.3f} {interval(v['regret_interval']):>17}"
        f"  {v['picked'].removeprefix('smollm2-')}"
    )


def number(value: float | None) -> str:
    """Two digits, or a dash."""
    return "-" if value is None else f"{value:.2f}"


def interval(of: Sequence[float | None]) -> str:
    """Both ends."""
    return f"{number(of[0])} to {number(of[1])}"


def plot(result: Result, path: Path) -> None:
    """Isolation against two outcomes, one point an SAE."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    names = [row["sae"] for row in result["saes"]]
    x = np.array([row["pair_isolation"] for row in result["saes"]])
    x_ends = np.array([row["pair_isolation_interval"] for row in result["saes"]], float).T
    for ax, (outcome, label) in zip(
        axes, (("above chance", "features above the chance line"), ("mean score", "mean score")), strict=True
    ):
        found = result["outcomes"][outcome]
        y = np.array([found["by_sae"][name] for name in names])
        y_ends = np.array([found["interval_by_sae"][name] for name in names], float).T
        sides = [np.maximum(np.stack([v - lo, hi - v]), 0) for v, (lo, hi) in ((x, x_ends), (y, y_ends))]
        ax.errorbar(x, y, xerr=sides[0], yerr=sides[1], fmt="o", color="tab:blue", ecolor="0.75")
        for name, a, b in zip(names, x, y, strict=True):
            ax.annotate(
                name.removeprefix("smollm2-"), (a, b), xytext=(4, 4), textcoords="offset points", fontsize=8
            )
        ours = found["figures"][0]
        ax.set(
            xlabel="pair_isolation, before anything is explained",
            ylabel=label,
            title=f"Spearman {number(ours['spearman'])} [{interval(ours['interval'])}], {len(names)} SAEs",
        )
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Run, print, plot."""
    parser = argparse.ArgumentParser(description="Selection figures against what explanation later finds.")
    parser.add_argument("--store", type=Path, help="folder that keeps the work; default: a temporary one")
    parser.add_argument("--per-domain", type=int, default=5, help="features tried in each domain of each SAE")
    parser.add_argument("--plot", type=Path, help="write pair_isolation against outcome here")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="safesail-suite-") as temporary:
        folder = args.store or Path(temporary)
        check_code(folder)
        saes, tried = gather(folder, args.per_domain, quiet=args.quiet)
    result = evaluate(saes, tried) | {"per_domain": args.per_domain, "tried": [asdict(t) for t in tried]}
    result["seconds_of_this_run"] = round(time.perf_counter() - started, 1)
    if args.plot:
        plot(result, args.plot)
    sys.stderr.write(text(result) + "\n")
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

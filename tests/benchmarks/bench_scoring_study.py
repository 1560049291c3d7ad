"""What do cheaper ways of scoring cost, and do they agree with rating every token?

The same windows and the same explanations by each method, with the two built-in simulators and with an oracle that
knows the truth and errs. Tokens are those billed for the explanation's own simulation. Agreement is the correlation,
over features, with the token method's score by the same simulator; intervals are 95 % bootstraps over features.

    python -m tests.benchmarks.bench_scoring_study [--store FILE] [--features N] [--plot FILE] [--markdown FILE]

Without --store the demo pipeline makes one first (minutes more).
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safesail.autointerp.config import ExemplarConfig, ScoringConfig
from safesail.autointerp.exemplars import collect
from safesail.domain.ids import FeatureId
from safesail.llm.builtin_prompts import count_tokens, prompt_tokens
from safesail.llm.lexical import LexicalModel
from safesail.llm.types import ChatClient
from safesail.pipeline.run import run_pipeline
from safesail.resources import resource_dir
from safesail.store.connection import open_reader
from safesail.store.explanations import explained_features, read_explanation
from safesail.store.selection import best_sae
from tests.study import Claim, Scored, compared, embedding, oracle, score_all

HELD_OUT = ExemplarConfig(n_active=20, n_random=10, n_hard=10)
SIZES = (2, 4, 6, 8, 16, 32)
BAR = 0.2
"""Score at which an explanation is kept: every feature that the paper released has more."""

PEERS = {"JSON list with examples": 64_000, "tab list with examples": 37_000, "JSON list, no examples": 7_000}
"""Tokens that peers' token-level prompts take for ten windows of 64 tokens, counted on their real prompts."""

DELPHI = {
    "detection": 16_400,
    "fuzzing": 19_100,
    "simulation by log-probabilities": 102_000,
    "simulation": 553_500,
}
"""Tokens of Delphi's scorers for one feature at its defaults."""


@dataclass(frozen=True)
class Study:
    """One simulator's scores."""

    simulator: str
    token: Scored
    methods: dict[str, tuple[ScoringConfig, Scored]]


def grid(sizes: Sequence[int], *, lists: bool) -> list[ScoringConfig]:
    """All settings of the segment method that are compared."""
    made = [
        ScoringConfig.model_validate(
            {
                "method": "segment",
                "segment_tokens": s,
                "windows_per_call": w,
                "answers": a,
                "graded": g,
                "draws": 1,
            }
        )
        for s in sizes
        for w in (1, 10)
        for a in (("active", "list") if lists else ("active",))
        for g in (True, False)
    ]
    return [*made, *(ScoringConfig(method="segment", draws=1, graded=graded) for graded in (True, False))]


def study(
    name: str, claims: Sequence[Claim], make: Callable[[int], ChatClient], settings: Sequence[ScoringConfig]
) -> Study:
    """Score `claims` by every setting; `make` gives the simulator for a length of segments."""
    token = score_all(claims, make(1), ScoringConfig(method="token", draws=1))
    scored = {c.label: (c, score_all(claims, make(c.segment_tokens), c)) for c in settings}
    return Study(name, token, scored)


def rows_of(made: Study) -> list[dict[str, Any]]:
    """The table's rows of one simulator."""
    base = made.token.mean_tokens
    rows: list[dict[str, Any]] = [
        {"simulator": made.simulator, "method": "token", "tokens": round(base), **_mean(made.token)}
    ]
    for label, (config, scored) in made.methods.items():
        rows.append({
            "simulator": made.simulator,
            "method": label,
            "segment_tokens": config.segment_tokens,
            "windows_per_call": config.windows_per_call,
            "answers": config.answers,
            "graded": config.graded,
            "tokens": round(scored.mean_tokens),
            "saved": round(1 - scored.mean_tokens / base, 4),
            **compared(scored.values, made.token.values),
            **_mean(scored),
        })  # fmt: skip
    return rows


def _mean(scored: Scored) -> dict[str, Any]:
    found = [v for v in scored.values if v is not None]
    return {"mean_score": round(sum(found) / len(found), 3), "undefined": len(scored.values) - len(found)}


def savings(made: Study, claims: Sequence[Claim]) -> dict[str, Any]:
    """What the default saves, against our own token prompt, the same without any space, and peers' prompts."""
    default = made.methods[ScoringConfig(method="segment").label][1].mean_tokens
    text = sum(len(e.window.tokens) for _, windows in claims for e in windows) / len(claims)
    compact = _compact_tokens(made.token) / len(claims)
    ten = default / text * 640
    return {
        "default_tokens": round(default),
        "text_tokens": round(text),
        "token_prompt": round(1 - default / made.token.mean_tokens, 4),
        "token_prompt_without_spaces": round(1 - default / compact, 4),
        "default_for_ten_windows_of_64": round(ten),
        "peers": {name: round(1 - ten / tokens, 4) for name, tokens in PEERS.items()},
        "delphi_defaults": {name: round(1 - default / tokens, 4) for name, tokens in DELPHI.items()},
    }


def _compact_tokens(scored: Scored) -> int:
    """Tokens of the token method, were all spaces left out of its JSON, in prompts and answers."""
    total = 0
    for request, record in scored.calls:
        assert record.answer is not None
        head, _, rest = request.prompt.partition("<tokens>\n")
        tokens, _, tail = rest.partition("\n</tokens>")
        listed, rated = (
            json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))
            for text in (tokens, record.answer.text)
        )
        total += prompt_tokens(request) - count_tokens(request.prompt) + count_tokens(rated)
        total += count_tokens(f"{head}<tokens>\n{listed}\n</tokens>{tail}")
    return total


def adaptive(claims: Sequence[Claim], model: ChatClient) -> dict[str, Any]:
    """Stopping as soon as a score is decided: what it saves, and how often the verdict is another."""
    config = ScoringConfig(method="segment", windows_per_call=10, draws=500)
    full = score_all(claims, model, config)
    stopped = score_all(claims, model, config.model_copy(update={"decide_at": BAR}))
    differing = [
        ((a or 0.0) > BAR) != ((b or 0.0) > BAR) for a, b in zip(full.values, stopped.values, strict=True)
    ]
    return {
        "bar": BAR,
        "windows": [sum(full.windows), sum(stopped.windows)],
        "saved": round(1 - stopped.mean_tokens / full.mean_tokens, 4),
        "other_verdicts": sum(differing),
        "n": len(differing),
    }


def read_claims(store: Path, n: int | None) -> list[Claim]:
    """Explanations of a store with the held-out windows of their features."""
    with open_reader(store) as db:
        sae_id = best_sae(db)
        features = [FeatureId(sae_id, j) for j in explained_features(db, sae_id)][:n]
        return [(read_explanation(db, f), collect(db, f, "test", HELD_OUT)) for f in features]


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table."""
    lines = ["| simulator | method | tokens a feature | saved | Pearson | Spearman | mean score |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for row in rows:
        cells = [_cell(row.get("pearson")), _cell(row.get("spearman"))]
        saved = f"{row['saved']:.1%}" if "saved" in row else ""
        lines.append(
            f"| {row['simulator']} | {row['method']} | {row['tokens']:,} | {saved} | {' | '.join(cells)} "
            f"| {row['mean_score']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def _cell(found: Sequence[float] | None) -> str:
    return "" if found is None else f"{found[0]:.2f} [{found[1]:.2f}, {found[2]:.2f}]"


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Tokens a feature against agreement; one curve a simulator and way of asking, active answers only."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = [r for r in rows if r.get("answers") == "active" and r["pearson"] is not None]
    names = list(dict.fromkeys(r["simulator"] for r in shown))
    figure, _ = plt.subplots(
        1, len(names), figsize=(4.5 * len(names), 4.2), sharey=True, layout="constrained"
    )
    for axis, name in zip(figure.axes, names, strict=True):
        for graded, windows, style in (
            (True, 10, "o-"),
            (False, 10, "s--"),
            (True, 1, "^:"),
            (False, 1, "v:"),
        ):
            curve = [r for r in shown if r["simulator"] == name and r["graded"] == graded
                     and r["windows_per_call"] == windows]  # fmt: skip
            label = f"{'graded' if graded else 'binary'}, {windows} a call"
            axis.plot(
                [r["tokens"] for r in curve], [r["pearson"][0] for r in curve], style, label=label, ms=4
            )
        best = next(r for r in shown if r["simulator"] == name and r["method"] == "segment")
        axis.plot(best["tokens"], best["pearson"][0], "k*", ms=13, label="default")
        axis.set(title=name, xlabel="tokens a feature")
        axis.axhline(0.9, color="grey", lw=0.7)
    figure.axes[0].set_ylabel("Pearson with the token score")
    figure.axes[0].legend(fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _study(name: str, claims: Sequence[Claim], sizes: Sequence[int]) -> Study:
    """By one simulator; list answers hold the same predictions, so that one simulator's will do for them."""
    if name == "lexical":
        return study(name, claims, lambda _: LexicalModel(), grid(sizes, lists=True))
    if name == "oracle":
        return study(name, claims, lambda size: oracle(claims, size, worst=0.8), grid(sizes, lists=False))
    meaning = embedding()
    return study(name, claims, lambda _: meaning, grid(sizes, lists=False))


def main() -> None:
    """Run, write what was asked for, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", type=Path)
    parser.add_argument("--features", type=int)
    parser.add_argument("--simulators", nargs="+", default=["lexical", "embedding", "oracle"])
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--markdown", type=Path)
    asked = parser.parse_args()
    started = time.perf_counter()
    with TemporaryDirectory() as folder:
        store: Path = asked.store or Path(folder) / "safesail.duckdb"
        if asked.store is None:
            run_pipeline(resource_dir("pipelines") / "demo.yaml", out=Path(folder), quiet=True)
        claims = read_claims(store, asked.features)
    studies = [_study(name, claims, asked.sizes) for name in asked.simulators]
    rows = [row for made in studies for row in rows_of(made)]
    if asked.markdown:
        asked.markdown.write_text(markdown(rows), encoding="utf-8")
    if asked.plot:
        plot(rows, asked.plot)
    result = {
        "features": len(claims),
        "windows": sum(len(windows) for _, windows in claims),
        "savings": {made.simulator: savings(made, claims) for made in studies},
        "adaptive": adaptive(claims, LexicalModel()),
        "rows": rows,
        "seconds": round(time.perf_counter() - started),
    }
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

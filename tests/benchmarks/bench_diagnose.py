"""Diagnosis of prompts: cost beside the model's own work, false discoveries, and what it finds on labelled texts.

    python -m tests.benchmarks.bench_diagnose [PART ...] [--store STORE] [--turns 9] [--repetitions 1000]

Parts: `speed` (64 tokens through all bundled SAEs; the base is the model's forward up to the deepest hook and every
SAE's encoder; by turns), `nulls` (prompts of one labelled set, dealt into two at random again and again), `contrast`
(safe and unsafe prompts of XSTest; the top features with what the store says of them), `languages` (the Declaration of
Human Rights, articles of equal number in two languages), `path` (the next token's log-odds without the ten features on
tokens that it rests on most, and without ten random active ones). One JSON object on standard output.
"""

import argparse
import csv
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safesail.diagnose.config import CompareConfig, DiagnoseConfig
from safesail.diagnose.known import KnownFeatures, read_known
from safesail.diagnose.run import compare_prompts, diagnose_prompt, fired_shares
from safesail.diagnose.tokens import read_prompt
from safesail.domain.ids import parse_feature
from safesail.domain.undefined import Undefined
from safesail.metrics.effects import benjamini_hochberg
from safesail.metrics.permutation import permutation_p
from safesail.resources import expand
from safesail.sae.attribution import token_target
from safesail.sae.edit import feature_directions
from safesail.sae.encode import encode_rows
from safesail.sae.load import load_with_saes
from safesail.sae.protocol import SAE
from safesail.subject.loading import ModelConfig
from safesail.subject.protocol import Intervention, Subject
from tests.benchmarks.bench_harvest import SHARED

DATA = SHARED / "data"
N_TOKENS = 64


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", default=["speed", "nulls", "contrast", "languages", "path"])
    parser.add_argument("--store", type=Path)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--repetitions", type=int, default=1_000)
    asked = parser.parse_args()
    subject, saes = load_with_saes(ModelConfig("smollm2"), [expand("bundled:data/saes/smollm2-*")])
    known = read_known(asked.store, [sae.info for sae in saes])
    measured: dict[str, Callable[[], Any]] = {
        "speed": lambda: speed(subject, saes, known, asked.store, asked.turns),
        "nulls": lambda: nulls(subject, saes, asked.repetitions),
        "contrast": lambda: contrast(subject, saes, known),
        "languages": lambda: languages(subject, saes),
        "path": lambda: path(subject, saes),
    }
    sys.stdout.write(
        json.dumps({part: measured[part]() for part in asked.parts}, indent=2, ensure_ascii=False) + "\n"
    )


def speed(
    subject: Subject, saes: Sequence[SAE], known: KnownFeatures, store: Path | None, turns: int
) -> dict[str, Any]:
    """Seconds of a diagnosis and of its base, and their ratio within each turn."""
    text = " ".join(
        (DATA / "gutenberg_sherlock").glob("*.txt").__next__().read_text(encoding="utf-8").split()[2000:2200]
    )
    ids = subject.tokenize(text)[:N_TOKENS]
    prompt = str(subject.tokenizer.decode(ids))
    assert len(read_prompt(subject, prompt)) == N_TOKENS
    ways: dict[str, Callable[[], Any]] = {
        "forward and encode": lambda: encode_rows(subject, saes, [ids]),
        "diagnosis": lambda: diagnose_prompt(subject, saes, prompt, DiagnoseConfig(), known=known),
    }
    if store is not None:
        ways["diagnosis beside the corpus"] = lambda: diagnose_prompt(
            subject, saes, prompt, DiagnoseConfig(), known=known, corpus=store
        )
    for way in ways.values():
        way()
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns):
        for name in sorted(ways, reverse=bool(turn % 2)):
            began, spent = time.perf_counter(), time.process_time()
            ways[name]()
            wall[name].append(time.perf_counter() - began)
            cpu[name].append(time.process_time() - spent)
    base = "forward and encode"
    return {
        name: {
            "median_seconds": round(statistics.median(wall[name]), 4),
            "ratio": round(statistics.median(a / b for a, b in zip(wall[name], wall[base], strict=True)), 3),
            "cpu_ratio": round(
                statistics.median(a / b for a, b in zip(cpu[name], cpu[base], strict=True)), 3
            ),
        }
        for name in ways
    }


def xstest() -> tuple[list[str], list[str]]:
    """Prompts that a model should answer, and prompts that it should refuse."""
    with (DATA / "xstest" / "xstest_prompts.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    safe, unsafe = ([row["prompt"] for row in rows if row["label"] == label] for label in ("safe", "unsafe"))
    return safe, unsafe


def path(subject: Subject, saes: Sequence[SAE], n_prompts: int = 50) -> dict[str, Any]:
    """The log-odds of the next token without the ten strongest nodes, and without ten random active ones, by prompt."""
    from safesail.diagnose.config import PathConfig
    from safesail.diagnose.path import next_token, one_per_hook, trace

    chosen = one_per_hook(saes, KnownFeatures({}))
    draw = np.random.default_rng(0)
    config = PathConfig(max_nodes=10, share=1.0)
    moved: dict[str, list[float]] = {"strongest": [], "random": []}
    predicted: list[float] = []
    for text in draw.permutation(xstest()[0])[:n_prompts]:
        tokens = read_prompt(subject, str(text))
        target = next_token(subject, tokens.ids)
        nodes = trace(subject, chosen, tokens, target, config, known=KnownFeatures({})).nodes
        encoded = encode_rows(subject, chosen, [list(tokens.ids)])
        active = [
            (sae_id, int(p), int(f), float(v))
            for sae_id, c in encoded.by_sae.items()
            for p, f, v in zip(c.position, c.feature, c.value, strict=True)
        ]
        strongest = [
            (*_named(row["feature"], row["position"]), row["activation"]) for row in nodes.to_dict("records")
        ]
        random = [active[i] for i in draw.choice(len(active), len(strongest), replace=False)]
        clean = _log_odds(subject, tokens.ids, target, [])
        for name, ablated in (("strongest", strongest), ("random", random)):
            without = _log_odds(subject, tokens.ids, target, _ablated(chosen, ablated))
            moved[name].append(without - clean)
        predicted.append(-float(nodes["attribution"].to_numpy().sum()))
    sizes = {name: np.abs(values) for name, values in moved.items()}
    gain = sizes["strongest"] - sizes["random"]
    drawn = draw.choice(gain, (2_000, len(gain))).mean(axis=1)
    return {
        "prompts": len(gain), "saes": [sae.info.sae_id for sae in chosen],
        "mean_move": {name: round(float(size.mean()), 3) for name, size in sizes.items()},
        "median_move": {name: round(float(np.median(size)), 3) for name, size in sizes.items()},
        "gain": round(float(gain.mean()), 3),
        "interval": [round(float(q), 3) for q in np.quantile(drawn, [0.025, 0.975])],
        "prompts_with_gain": int((gain > 0).sum()),
        "correlation_of_move_and_prediction": round(float(np.corrcoef(predicted, moved["strongest"])[0, 1]), 3),
    }  # fmt: skip


def _named(feature: str, position: int) -> tuple[str, int, int]:
    named = parse_feature(feature)
    return named.sae_id, position, named.index


def _ablated(saes: Sequence[SAE], nodes: Sequence[tuple[str, int, int, float]]) -> list[Intervention]:
    def without(own: list[tuple[int, Any]]) -> Callable[[Any, Any], Any]:
        def edit(x: Any, positions: Any) -> Any:
            changed = x.clone()
            for position, push in own:
                changed[positions == position] -= push
            return changed

        return edit

    return [
        Intervention(
            sae.info.hook,
            without(
                [
                    (p, v * feature_directions(sae, [f])[0])
                    for name, p, f, v in nodes
                    if name == sae.info.sae_id
                ]
            ),
        )
        for sae in saes
    ]


def _log_odds(subject: Subject, ids: Sequence[int], target: int, edits: list[Intervention]) -> float:
    with torch.no_grad():
        logits = subject.run(torch.tensor([list(ids)]), logits=True, interventions=edits).logits
        assert logits is not None
        return float(token_target(target)({}, logits))


def nulls(subject: Subject, saes: Sequence[SAE], repetitions: int) -> dict[str, Any]:
    """How often two halves of one set of prompts are said to differ in some feature."""
    prompts = [read_prompt(subject, text) for text in xstest()[0]]
    fired = fired_shares(subject, saes, prompts, 1_024)
    share = np.concatenate([f.share for f in fired], axis=1)
    draw = np.random.default_rng(0)
    false = []
    for seed in range(repetitions):
        chosen = draw.choice(len(share), 40, replace=False)
        values = share[chosen]
        values = values[:, (values > 0).sum(axis=0) >= 2]
        values = values[:, draw.choice(values.shape[1], min(1_000, values.shape[1]), replace=False)]
        p = permutation_p(values, np.arange(40) < 20, level=0.1, draws=10_000, seed=seed)
        assert not isinstance(p, Undefined)
        false.append(int((benjamini_hochberg(p) <= 0.1).sum()))
    return {
        "repetitions": repetitions, "prompts_a_side": 20, "features_each": 1_000, "level": 0.1,
        # Whatever is discovered is false, so that this share is the false discovery rate.
        "share_with_any_discovery": float(np.mean(np.array(false) > 0)),
    }  # fmt: skip


def contrast(subject: Subject, saes: Sequence[SAE], known: KnownFeatures) -> dict[str, Any]:
    """What tells unsafe prompts from safe ones that look like them."""
    safe, unsafe = xstest()
    compared = compare_prompts(subject, saes, (unsafe, safe), CompareConfig(), known=known)
    explained = compared.features.dropna(subset=["explanation"])
    return {
        "unsafe": compared.n_a, "safe": compared.n_b, "features": len(compared.features), "shown": compared.n_shown,
        "top": _rows(compared.features), "top_explained": _rows(explained),
    }  # fmt: skip


def _rows(features: Any) -> list[dict[str, Any]]:
    names = ["feature", "share_a", "share_b", "q", "explanation", "score"]
    return json.loads(features.head(10).reindex(columns=names).to_json(orient="records"))


def languages(subject: Subject, saes: Sequence[SAE]) -> dict[str, Any]:
    """Overlap of active features between English and other languages, per SAE."""
    english = articles("eng")
    result: dict[str, Any] = {}
    for language in ("fra", "spa", "hin", "cmn_hans"):
        other = articles(language)
        numbers = sorted(english.keys() & other.keys())
        sets = ([english[n] for n in numbers], [other[n] for n in numbers])
        compared = compare_prompts(
            subject, saes, sets, CompareConfig(translations=True, draws=2_000), known=KnownFeatures({})
        )
        result[language] = {
            o.sae: {name: _number(getattr(o, name)) for name in ("translations", "unrelated", "low", "high")}
            for o in compared.overlaps
        }
        result[language]["articles"] = len(numbers)
    return result


def _number(value: float | Undefined) -> float | str:
    return value.reason if isinstance(value, Undefined) else round(value, 3)


_HEADINGS = {
    "eng": r"Article (\d+)", "fra": r"Article (?:premier|(\d+))", "spa": r"Artículo (\d+)",
    "hin": r"अनुच्छेद ([०-९]+)", "cmn_hans": r"第([一二三四五六七八九十]+)条",
}  # fmt: skip


def articles(language: str) -> dict[int, str]:
    """First sentences of the articles, by number; at most 400 characters."""
    text = (DATA / "udhr_multilingual" / f"{language}.txt").read_text(encoding="utf-8")
    parts = re.split(rf"^\s*{_HEADINGS[language]}.*$", text, flags=re.MULTILINE)
    numbers = [_read_number(n) for n in parts[1::2]]
    return {
        n: " ".join(body.split())[:400] for n, body in zip(numbers, parts[2::2], strict=True) if body.strip()
    }


def _read_number(text: str | None) -> int:
    if text is None:
        return 1
    digits = {c: i for i, c in enumerate("〇一二三四五六七八九")}
    if any(c in digits or c == "十" for c in text):
        tens, _, ones = text.rpartition("十")
        return (10 * (digits.get(tens, 1)) if "十" in text else 0) + digits.get(ones, 0)
    return int(text)


if __name__ == "__main__":
    main()

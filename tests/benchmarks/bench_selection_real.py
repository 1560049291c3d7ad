"""Does a feature chosen from concept pairs alone separate real labelled texts that the pairs never saw?

    python -m tests.benchmarks.bench_selection_real [--texts 80] [--tokens 48]

For every concept with such texts (`real_texts.py`), the feature that best isolates it on OUR pairs: largest share of
pairs in which it fires on q+ only, minus the share on q- only, as the selection stores them; ties share. A text's score
is the largest (or mean) activation over its first tokens, the figure the AUC between texts with and without the
concept. Beside it, on the same texts:

    random    mean AUC of all features that fire on any of them
    ceiling   the best feature, chosen on these very texts: optimistic, as the best of many always is
    half      the best feature chosen on one half of the texts and measured on the other: what a user
              with labelled texts could reach; mean over 10 cuts, both ways

Intervals (95 %) resample texts within each side; those of medians resample concepts as well. The subject model sees
every text once. One JSON object on standard output, a table on standard error. About 5 minutes on one core.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from safesail.concepts.read import read_concepts
from safesail.domain.records import Concept
from safesail.resources import cache_dir, expand
from safesail.sae.load import open_sae
from safesail.sae.protocol import SAE, SparseActs
from safesail.selection.config import SelectionConfig
from safesail.selection.run import run_selection
from safesail.store.connection import open_writer
from safesail.store.sql import rows
from safesail.subject.fetch import fetch
from safesail.subject.loading import ModelConfig, load_subject
from safesail.subject.protocol import Subject
from tests.benchmarks.real_texts import Task, read_tasks

SAES = ("smollm2-l14-mlp-k16", "smollm2-l14-mlp-k32")
DRAWS, CUTS, SEED = 1000, 10, 0
BATCH_TOKENS = 1024


@dataclass(frozen=True)
class Chosen:
    """Features that isolate a concept best on its pairs; several where they tie."""

    features: tuple[int, ...]
    net: float


@dataclass(frozen=True)
class Scores:
    """Every text's score of every feature of one SAE."""

    largest: Float[np.ndarray, "n_texts d_sae"]
    mean: Float[np.ndarray, "n_texts d_sae"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=80, help="texts a side at most")
    parser.add_argument("--tokens", type=int, default=48, help="first tokens of a text that count")
    asked = parser.parse_args()
    started = time.perf_counter()
    fetch("smollm2", cache=cache_dir(), quiet=True)
    subject = load_subject(ModelConfig("smollm2"))
    saes = [open_sae(expand(f"bundled:data/saes/{name}"), model=subject.info) for name in SAES]
    tasks = read_tasks(shared() / "data", per_side=asked.texts, seed=SEED)
    concepts = {c.concept_id: c for c in read_concepts([expand("bundled:data/concepts")])}
    chosen = {
        lang: choose(
            subject,
            saes,
            [concepts[c] for c in dict.fromkeys(t.concept for t in tasks if t.lang == lang)],
            lang,
        )
        for lang in dict.fromkeys(task.lang for task in tasks)
    }
    texts = list(dict.fromkeys(text for task in tasks for text in (*task.pos, *task.neg)))
    scores = score_texts(subject, saes, texts, asked.tokens)
    number = {text: i for i, text in enumerate(texts)}
    found = {
        sae.info.sae_id: [
            measure(task, chosen[task.lang][sae.info.sae_id, task.concept], scores[sae.info.sae_id], number)
            for task in tasks
        ]
        for sae in saes
    }
    result: dict[str, Any] = {
        "subject": "smollm2", "texts": len(texts), "texts_a_side_at_most": asked.texts,
        "tokens_a_text_at_most": asked.tokens, "seed": SEED, "seconds": round(time.perf_counter() - started),
        "medians": {name: medians(measured) for name, measured in found.items()},
        "tasks": {name: [m.cells() for m in measured] for name, measured in found.items()},
    }  # fmt: skip
    sys.stdout.write(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    for name, measured in found.items():
        sys.stderr.write(table(name, measured, result["medians"][name]))


def shared() -> Path:
    """Folder of the real texts, beside the checkout."""
    return Path(os.environ.get("SAFESAIL_SHARED", Path(__file__).resolve().parents[3] / "shared"))


def choose(
    subject: Subject, saes: Sequence[SAE], concepts: Sequence[Concept], lang: str
) -> dict[tuple[str, str], Chosen]:
    """The best features by (SAE, concept), from pairs in one language."""
    config = SelectionConfig(languages=(lang,), keep_floor=0.05)
    with tempfile.TemporaryDirectory() as folder, open_writer(Path(folder) / "store.duckdb") as db:
        run_selection(db, subject, saes, concepts, config, quiet=True)
        found = rows(
            db,
            "SELECT sae_id, concept_id, list(feature ORDER BY feature), any_value(net) FROM"
            " (SELECT *, frequency - swapped AS net FROM feature_concepts"
            " QUALIFY net >= max(net) OVER (PARTITION BY sae_id, concept_id) - 1e-9)"
            " GROUP BY sae_id, concept_id",
        )
    return {(sae, concept): Chosen(tuple(features), float(net)) for sae, concept, features, net in found}


def score_texts(
    subject: Subject, saes: Sequence[SAE], texts: Sequence[str], n_tokens: int
) -> dict[str, Scores]:
    """One pass of the subject model over all texts, in batches of like length."""
    ids = [subject.tokenize(text)[:n_tokens] for text in texts]
    hooks = list(dict.fromkeys(sae.info.hook for sae in saes))
    size = {sae.info.sae_id: (len(texts), sae.info.d_sae) for sae in saes}
    scores = {
        name: Scores(np.zeros(shape, np.float32), np.zeros(shape, np.float32)) for name, shape in size.items()
    }
    order = sorted(range(len(texts)), key=lambda i: len(ids[i]))
    for batch in batches(order, ids):
        longest = len(ids[batch[-1]])
        tokens, mask = torch.zeros((2, len(batch), longest), dtype=torch.long)
        for row, i in enumerate(batch):
            tokens[row, : len(ids[i])], mask[row, : len(ids[i])] = torch.tensor(ids[i]), 1
        seen = subject.run(tokens, capture=hooks, attention_mask=mask).activations
        text = np.array(batch)[torch.nonzero(mask)[:, 0].numpy()]
        for sae in saes:
            add(scores[sae.info.sae_id], sae.encode(seen[sae.info.hook][mask.bool()]), text)
    lengths = np.array([len(i) for i in ids], np.float32)[:, None]
    return {name: Scores(s.largest, s.mean / lengths) for name, s in scores.items()}


def batches(order: Sequence[int], ids: Sequence[Sequence[int]]) -> list[list[int]]:
    """Texts in order of length, in batches of at most `BATCH_TOKENS` tokens, padding included."""
    found: list[list[int]] = [[]]
    for i in order:
        if found[-1] and (len(found[-1]) + 1) * len(ids[i]) > BATCH_TOKENS:
            found.append([])
        found[-1].append(i)
    return found


def add(scores: Scores, acts: SparseActs, text: np.ndarray) -> None:
    """Take in the activations of a batch."""
    row, feature, value = text[acts.token.numpy()], acts.feature.numpy(), acts.value.numpy()
    np.maximum.at(scores.largest, (row, feature), value)
    np.add.at(scores.mean, (row, feature), value)


@dataclass(frozen=True)
class Measured:
    """One task on one SAE."""

    task: Task
    chosen: Chosen
    auc: dict[str, float]
    """By figure: `pairs`, `pairs_mean` (mean over tokens), `random`, `ceiling`, `half`."""

    draws: dict[str, Float[np.ndarray, " draws"]]
    """`pairs` and `random` on resampled texts."""

    rank: float
    """Share of the live features that the chosen one beats."""

    n_live: int

    def cells(self) -> dict[str, Any]:
        """For JSON."""
        task = self.task
        return {
            "concept": task.concept, "source": task.source, "lang": task.lang, "labels": task.label,
            "n_pos": len(task.pos), "n_neg": len(task.neg), "live_features": self.n_live,
            "features": self.chosen.features, "net_frequency_on_pairs": round(self.chosen.net, 3),
            **{f"auc_{name}": round(value, 3) for name, value in self.auc.items()},
            "auc_pairs_interval": interval(self.draws["pairs"]),
            "beats_share_of_live_features": round(self.rank, 3),
        }  # fmt: skip


def measure(task: Task, chosen: Chosen, scores: Scores, number: dict[str, int]) -> Measured:
    """All AUCs of a task on one SAE."""
    rng = np.random.default_rng(SEED)
    at = np.array([number[text] for text in (*task.pos, *task.neg)])
    is_pos = np.arange(len(at)) < len(task.pos)
    live = np.flatnonzero((scores.largest[at] > 0).any(axis=0))
    values = scores.largest[np.ix_(at, live)]
    every = aucs(values, is_pos)
    # A chosen feature that never fires on these texts says nothing about them.
    own = [float(every[live == j][0]) if j in live else 0.5 for j in chosen.features]
    of_mean = aucs(scores.mean[np.ix_(at, np.array(chosen.features))], is_pos)
    picked = scores.largest[np.ix_(at, np.array(chosen.features))]
    sample = rng.choice(len(live), min(100, len(live)), replace=False)
    pairs = float(np.mean(own))
    return Measured(
        task, chosen,
        {"pairs": pairs, "pairs_mean": float(of_mean.mean()), "random": float(every.mean()),
         "ceiling": float(every.max()), "half": half(values, is_pos, rng)},
        {"pairs": resampled(picked, is_pos, rng), "random": resampled(values[:, sample], is_pos, rng)},
        float((every < pairs).mean()), len(live),
    )  # fmt: skip


def aucs(
    values: Float[np.ndarray, "n_texts n_features"], is_pos: Bool[np.ndarray, " n_texts"]
) -> Float[np.ndarray, " n_features"]:
    """AUC of each column, ties counting one half."""
    n_pos, n_neg = int(is_pos.sum()), int((~is_pos).sum())
    ranks = rankdata(values, axis=0)[is_pos].sum(axis=0)
    return (ranks - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg)


def half(
    values: Float[np.ndarray, "n_texts n_features"],
    is_pos: Bool[np.ndarray, " n_texts"],
    rng: np.random.Generator,
) -> float:
    """AUC, on one half of the texts, of the feature that is best on the other half."""
    found: list[float] = []
    for _ in range(CUTS):
        first = np.zeros(len(values), bool)
        for side in (is_pos, ~is_pos):
            members = rng.permutation(np.flatnonzero(side))
            first[members[: len(members) // 2]] = True
        for here in (first, ~first):
            best = int(np.argmax(aucs(values[here], is_pos[here])))
            found.append(float(aucs(values[~here][:, [best]], is_pos[~here])[0]))
    return float(np.mean(found))


def resampled(
    values: Float[np.ndarray, "n_texts n_features"],
    is_pos: Bool[np.ndarray, " n_texts"],
    rng: np.random.Generator,
) -> Float[np.ndarray, " draws"]:
    """Mean AUC of the columns on texts drawn with replacement within each side."""
    weights = [
        rng.multinomial(n, np.full(n, 1 / n), DRAWS) / n for n in (int(is_pos.sum()), int((~is_pos).sum()))
    ]
    wins = np.zeros((int(is_pos.sum()), int((~is_pos).sum())))
    for column in values.T:
        gap = column[is_pos][:, None] - column[~is_pos][None]
        wins += (gap > 0) + 0.5 * (gap == 0)
    return ((weights[0] @ (wins / values.shape[1])) * weights[1]).sum(axis=1)


def medians(measured: Sequence[Measured]) -> dict[str, Any]:
    """Medians over concepts; a concept with several sources counts once, with their mean."""
    names = list(dict.fromkeys(m.task.concept for m in measured))
    rng = np.random.default_rng(SEED)
    own = [[m for m in measured if m.task.concept == name] for name in names]
    found: dict[str, Any] = {"concepts": len(names), "tasks": len(measured)}
    for figure in ("pairs", "pairs_mean", "random", "half", "ceiling"):
        found[figure] = round(float(np.median([np.mean([m.auc[figure] for m in ms]) for ms in own])), 3)
    picks = rng.integers(0, len(names), (DRAWS, len(names)))
    for figure in ("pairs", "random"):
        drawn = np.array([np.mean([m.draws[figure] for m in ms], axis=0) for ms in own])
        found[f"{figure}_interval"] = interval(np.median(drawn[picks, np.arange(DRAWS)[:, None]], axis=1))
    gaps = np.array([np.mean([m.auc["pairs"] - m.auc["random"] for m in ms]) for ms in own])
    found["pairs_above_random"] = round(float(np.median(gaps)), 3)
    found["pairs_above_random_interval"] = interval(np.median(gaps[picks], axis=1))
    found["concepts_with_interval_above_half"] = sum(
        float(np.quantile(np.mean([m.draws["pairs"] for m in ms], axis=0), 0.025)) > 0.5 for ms in own
    )
    found["beats_share_of_live_features"] = round(
        float(np.median([np.mean([m.rank for m in ms]) for ms in own])), 3
    )
    return found


def interval(draws: Float[np.ndarray, " draws"]) -> list[float]:
    """95 %."""
    return [round(float(np.quantile(draws, q)), 3) for q in (0.025, 0.975)]


def table(name: str, measured: Sequence[Measured], summary: dict[str, Any]) -> str:
    """For people."""
    lines = [f"\n{name}", f"{'concept':45} {'source':23} {'n':>8} pairs [95 %]        random  half ceiling"]
    for m in sorted(measured, key=lambda m: -m.auc["pairs"]):
        low, high = interval(m.draws["pairs"])
        n = f"{len(m.task.pos)}/{len(m.task.neg)}"
        lines.append(
            f"{m.task.concept:45} {m.task.source:23} {n:>8}  {m.auc['pairs']:.2f} [{low:.2f}, {high:.2f}]"
            f"    {m.auc['random']:.2f}  {m.auc['half']:.2f}    {m.auc['ceiling']:.2f}"
        )
    return "\n".join([*lines, f"medians over {summary['concepts']} concepts: {json.dumps(summary)}", ""])


if __name__ == "__main__":
    main()

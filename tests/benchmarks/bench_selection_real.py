"""Do readouts chosen from concept pairs alone separate real labelled texts, and do figures of pairs rank SAEs by it?

    python -m tests.benchmarks.bench_selection_real [--texts 100] [--tokens 64] [--cache FOLDER] [--sae FOLDER ...]

For every concept with such texts (`real_texts.py`: 40 tasks in English of 29 kinds of label), from OUR pairs:

    random feature   mean AUC of all features that fire on any of the texts
    today's rule     the feature with the largest f - s, fires at all; ties share (the rule before readouts)
    single feature   the largest (AUC on pairs + AUC of q+ against other domains) / 2
    readout          up to five features by the same figure, averaged (what `select-sae` stores)
    linear probe     ridge regression on all features, q+ against q- and texts of other domains
    hindsight        the best feature, chosen on these very texts: optimistic, as the best of many always is

A text's score is the largest activation over its first tokens, the outcome the AUC between texts with and without the
concept. Half of the clusters may be looked at while a readout is chosen, the other half reports; both are printed.
Then every ranking figure and baseline against the readout's real AUC over the SAEs.

Raw activations of all texts are kept in `--cache` (2.5 GB for six hooks), so that the model runs once: about 180,000
tokens, 4 minutes on two idle cores; all else takes two minutes. JSON on standard output, a table on standard error.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from safesail.concepts.read import load_concepts
from safesail.domain.ids import layer_of
from safesail.resources import cache_dir, expand
from safesail.sae.load import open_sae
from safesail.sae.settings import find_saes
from safesail.selection.batches import tokenize_pairs
from safesail.selection.config import SelectionConfig
from safesail.subject.fetch import fetch
from safesail.subject.loading import ModelConfig, load_subject
from tests.benchmarks import real_stats as stats
from tests.benchmarks.real_readouts import Pairs, SaeOnTexts, measure
from tests.benchmarks.real_texts import Task, read_tasks
from tests.benchmarks.text_activations import ActivationCache

HOOKS = tuple(f"blocks.{layer}.hook_{site}" for layer in (6, 14, 22) for site in ("mlp_out", "resid_post"))
"""Those whose activations are kept: of the bundled SAEs, and of the residual-stream SAEs that the recipe trains."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=100, help="texts a side at most")
    parser.add_argument("--tokens", type=int, default=64, help="first tokens of a text that count")
    parser.add_argument("--cache", type=Path, default=cache_dir() / "bench_activations")
    parser.add_argument("--sae", action="append", help="patterns of folders; default: the bundled SAEs")
    parser.add_argument("--hook", action="append", default=[], help="further hooks to keep")
    asked = parser.parse_args()
    started = time.perf_counter()
    saes, tasks, n_tokens = gather(asked)
    result: dict[str, Any] = {
        "subject": "smollm2", "texts_a_side_at_most": asked.texts, "tokens_a_text_at_most": asked.tokens,
        "tokens": n_tokens, "tasks": len(tasks), "concepts": len({t.concept for t in tasks}),
        "clusters": len({t.cluster for t in tasks}), "seconds": round(time.perf_counter() - started),
        "saes": {s.sae_id: {name: round(v, 4) for name, v in s.figures.items()} for s in saes},
        "auc": stats.table(saes, tasks), "ranking": stats.ranking(saes, tasks),
        "by_task": [task_row(i, task, saes) for i, task in enumerate(tasks)],
    }  # fmt: skip
    sys.stdout.write(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    sys.stderr.write(text(result))


def shared() -> Path:
    """Folder of the real texts, beside the checkout."""
    return Path(os.environ.get("SAFESAIL_SHARED", Path(__file__).resolve().parents[3] / "shared"))


def gather(asked: argparse.Namespace) -> tuple[list[SaeOnTexts], list[Task], int]:
    """Every SAE on pairs and tasks, the tasks, and how many tokens they have."""
    fetch("smollm2", cache=cache_dir(), quiet=True)
    subject = load_subject(ModelConfig("smollm2"))
    names = find_saes(asked.sae or [expand("bundled:data/saes/smollm2-*")])
    opened = [open_sae(name, model=subject.info) for name in names]
    tasks = [t for t in read_tasks(shared() / "data", per_side=asked.texts, seed=0) if t.lang == "en"]
    concepts = load_concepts((), ())
    tokenized = tokenize_pairs(
        concepts, subject.tokenize, subject.n_ctx_max, SelectionConfig(languages=("en",))
    )
    domains = {c.concept_id: c.domain for c in concepts}
    flat = tuple(pair for own in tokenized for pair in own)
    pairs = Pairs(flat, tuple(c.concept_id for c in concepts), domains)
    texts = list(dict.fromkeys(text for task in tasks for text in (*task.pos, *task.neg)))
    rows = [subject.tokenize(text)[: asked.tokens] for text in texts]
    pair_rows = [side.tolist() for pair in flat for side in (pair.pos, pair.neg)]
    hooks = [*HOOKS, *asked.hook]
    cache = ActivationCache(asked.cache, subject, hooks)
    cache.fill([*pair_rows, *rows])
    number = {text: i for i, text in enumerate(texts)}
    found: list[SaeOnTexts] = []
    for sae in tqdm(opened, desc="readouts"):
        name, layer = sae.info.sae_id, layer_of(sae.info.hook)
        assert layer is not None
        on_pairs, on_texts = (cache.texts([sae], r, quiet=True)[name] for r in (pair_rows, rows))
        found.append(measure((name, sae.info.hook, layer), pairs, on_pairs, tasks, on_texts, number))
    return found, tasks, sum(map(len, pair_rows)) + sum(map(len, rows))


def task_row(i: int, task: Task, saes: Sequence[SaeOnTexts]) -> dict[str, Any]:
    """One task, with every SAE's AUC of the readout."""
    return {
        "concept": task.concept, "source": task.source, "labels": task.label, "cluster": task.cluster,
        "kind": task.kind, "half": task.half, "n_pos": len(task.pos), "n_neg": len(task.neg),
        "readout": {sae.sae_id: round(float(sae.auc["readout"][i]), 3) for sae in saes},
        "today's rule": {sae.sae_id: round(float(sae.auc["today's rule"][i]), 3) for sae in saes},
    }  # fmt: skip


def text(result: Mapping[str, Any]) -> str:
    """For people."""
    lines = [f"{result['tasks']} tasks, {result['concepts']} concepts, {result['clusters']} clusters"]
    subsets = ("choose", "report", "all", *stats.KINDS)
    for sae_id, rows in result["auc"].items():
        lines += ["", sae_id, f"{'mean AUC [95 %]':28}" + "".join(f"{s:>20}" for s in subsets)]
        for name, by_subset in rows.items():
            cells = "".join(f"{m:.3f} [{low:.2f}, {high:.2f}]".rjust(20) for m, low, high in
                            (by_subset[s] for s in subsets))  # fmt: skip
            lines.append(f"{name:28}{cells}")
    for subset, figures in result["ranking"].items():
        lines += ["", f"Spearman with the readout's AUC, {subset}"]
        lines += [
            f"{name:32} {v['spearman']!s:>6} {v.get('interval', '')!s:>14}  within {v.get('within a hook')!s:>6}"
            f"  between {v.get('between hooks, best of each')!s:>6}  regret {v['regret']:.3f}  {v.get('picks', '')}"
            for name, v in figures.items()
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

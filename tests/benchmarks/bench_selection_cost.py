"""What scoring costs beside the subject model's own work, and whether memory grows with the pairs.

    python -m tests.benchmarks.bench_selection_cost [--share 0.125] [--seconds 500] [--memory] [--saes PATTERN]

Scoring is what `select-sae --model smollm2` does: all SAEs of data/saes, all concepts, figures and store included.
The base is what nobody can save: the model's forward over the same batches up to the deepest hook, and one product
x W_enc for each SAE. Both are timed in turn on the same parts of the concept set, the order alternating, so that a
machine that slows down slows both. `--share 1` takes all concepts; parts are left out once `--seconds` are over, and
counted. `cpu_ratio` is the same in the process's CPU time, which other processes move less.

`--memory` scores 1/4, 1/2 and all of the concepts (of `--share`), each in a process of its own, and reports its
memory.

One JSON object on standard output. A share of 1/8: about 2 minutes on one core.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from safesail.concepts.read import SourcedConcept, read_concepts
from safesail.domain.ids import layer_of
from safesail.resources import cache_dir, expand
from safesail.sae.load import open_sae
from safesail.sae.protocol import SAE
from safesail.sae.settings import find_saes
from safesail.selection.batches import Batch, cut_chunks, tokenize_pairs
from safesail.selection.config import SelectionConfig
from safesail.selection.run import run_selection
from safesail.store.connection import open_writer
from safesail.subject.fetch import fetch
from safesail.subject.loading import ModelConfig, load_subject
from safesail.subject.protocol import Subject

PARTS = 24
"""Parts of the concept set that are timed in turn; each opens a store of its own, which counts as scoring."""


@dataclass
class Clock:
    """Seconds by what they went to."""

    wall: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    cpu: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def time(self, name: str, run: Callable[[], Any]) -> Any:
        """Run and add."""
        wall, cpu = time.perf_counter(), time.process_time()
        result = run()
        self.wall[name] += time.perf_counter() - wall
        self.cpu[name] += time.process_time() - cpu
        return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1 / 8, help="of the concepts")
    parser.add_argument("--seconds", type=float, default=500, help="no new part is begun after this")
    parser.add_argument("--memory", action="store_true", help="memory instead of time")
    parser.add_argument("--saes", default="smollm2-*", help="pattern of folders in data/saes")
    asked = parser.parse_args()
    fetch("smollm2", cache=cache_dir(), quiet=True)
    result = memory(asked.share, asked.saes) if asked.memory else cost(asked.share, asked.seconds, asked.saes)
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


def concept_set(share: float) -> list[SourcedConcept]:
    """This share of the concepts, evenly from all domains."""
    concepts = read_concepts([expand("bundled:data/concepts")])
    n = max(1, round(share * len(concepts)))
    return [concepts[i * len(concepts) // n] for i in range(n)]


def load(pattern: str) -> tuple[Subject, list[SAE]]:
    """The model and SAEs that come along."""
    subject = load_subject(ModelConfig("smollm2"))
    found = find_saes([expand(f"bundled:data/saes/{pattern}")])
    return subject, [open_sae(spec, model=subject.info) for spec in found]


def cost(share: float, limit: float, pattern: str) -> dict[str, Any]:
    """Time of scoring over time of the base."""
    subject, saes = load(pattern)
    concepts = concept_set(share)
    parts = [part for i in range(PARTS) if (part := concepts[i::PARTS])]
    clock, seconds, done = Clock(), defaultdict[str, float](float), list[SourcedConcept]()
    base(subject, saes, concepts[:1])  # warms up
    started, n_tokens = time.perf_counter(), 0
    for number, part in enumerate(parts):
        if time.perf_counter() - started > limit:
            break
        for name in ("base", "scoring") if number % 2 else ("scoring", "base"):
            work = partial(base if name == "base" else score, subject, saes, part)
            found = clock.time(name, work)
            if name == "scoring":
                n_tokens += found["tokens"]
                for key, value in found["seconds"].items():
                    seconds[key] += value
        done += part
    return {
        "ratio": round(clock.wall["scoring"] / clock.wall["base"], 3),
        "cpu_ratio": round(clock.cpu["scoring"] / clock.cpu["base"], 3),
        "seconds": {name: round(value, 1) for name, value in clock.wall.items()},
        "cpu_seconds": {name: round(value, 1) for name, value in clock.cpu.items()},
        "scoring_by_its_own_clock": {name: round(value, 1) for name, value in seconds.items()},
        "saes": len(saes), "concepts": len(done), "concepts_left_out": len(concepts) - len(done),
        "pairs": sum(len(c.pairs) for c in done), "tokens": n_tokens, "threads": torch.get_num_threads(),
    }  # fmt: skip


def score(subject: Subject, saes: Sequence[SAE], concepts: Sequence[SourcedConcept]) -> dict[str, Any]:
    """What the command does, into a store of its own."""
    with tempfile.TemporaryDirectory() as folder, open_writer(Path(folder) / "store.duckdb") as db:
        result = run_selection(db, subject, saes, concepts, SelectionConfig(), quiet=True)
    return {"tokens": result.n_tokens, "seconds": dict(result.seconds)}


@torch.no_grad()
def base(subject: Subject, saes: Sequence[SAE], concepts: Sequence[SourcedConcept]) -> None:
    """The model's forward up to the deepest hook, and the encoders' products."""
    deepest = max((sae.info.hook for sae in saes), key=lambda hook: layer_of(hook) or 0)
    config = SelectionConfig()
    pairs = tokenize_pairs(concepts, subject.tokenize, subject.n_ctx_max, config)
    encoders = [
        sae.decoder.T.contiguous() for sae in saes if sae.decoder is not None
    ]  # of the encoder's shape
    for chunk in cut_chunks(pairs, config.batch_tokens):
        for batch in chunk.batches:
            tokens, mask = padded(batch)
            x = subject.run(tokens, capture=[deepest], attention_mask=mask).activations[deepest][mask.bool()]
            for encoder in encoders:
                torch.mm(x, encoder)


def padded(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Token rows padded on the right, and their mask."""
    rows = batch.rows
    tokens, mask = torch.zeros((2, len(rows), max(map(len, rows))), dtype=torch.long)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
    return tokens, mask


def memory(share: float, pattern: str) -> dict[str, Any]:
    """Memory of scoring 1/4, 1/2 and all of the concepts, and of loading alone."""
    found = [in_child(part * share, pattern) for part in (0, 1 / 4, 1 / 2, 1)]
    grown = {key: round(found[-1][key] / found[1][key], 3) for key in ("peak_mb", "own_mb", "mapped_mb")}
    return {"memory": found, "all_over_quarter": grown}


def in_child(share: float, pattern: str) -> dict[str, Any]:
    """Memory, in MB, of a process that scores this share of the concepts; 0: that only loads.

    `peak_mb`: most resident memory. Of what is resident in the end, `own_mb` is the process's own and `mapped_mb` are
    pages of files: libraries, and the rows of the model's weights that the texts' tokens have touched.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_child, (share, pattern))


def _child(share: float, pattern: str) -> dict[str, Any]:
    subject, saes = load(pattern)
    concepts = concept_set(share) if share else []
    if concepts:
        score(subject, saes, concepts)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    fields = {"peak_mb": "VmHWM:", "own_mb": "RssAnon:", "mapped_mb": "RssFile:"}
    megabytes = {name: round(int(status.split(field)[1].split()[0]) / 1024) for name, field in fields.items()}
    return {"share": share, "pairs": sum(len(c.pairs) for c in concepts), **megabytes}


if __name__ == "__main__":
    main()

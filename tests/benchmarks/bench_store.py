"""How fast a harvest's nonzeros go into the store: sorting a shard, writing it, and the final merge; before and after.

    python -m tests.benchmarks.bench_store [--tokens 8k|64k ...] [--saes N] [--shards N] [--turns N] [--old COMMIT]

Synthetic shards of 32 SAEs with 32,768 features each at L0 50, as four batches whose windows are not in order, go the
way that results of a GPU go: `sort` (batches to one order, and histograms), `write` (files and rows of a shard, until
they are on the disk), `finish` (all shards merged by feature into the store; statistics, quantiles and top tokens of
every feature). The code of an earlier commit (the last one before this way was made) does the same in a process of its
own, by turns. Wall time and CPU time of every phase; a machine that others use shows the latter. One JSON object on
standard output.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BEFORE = "f5212b7"
D_SAE, L0, N_CTX, BATCHES = 32_768, 50, 64, 4
PHASES: tuple[str, ...] = ("sort", "write", "finish")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", nargs="*", default=["8k", "64k"])
    parser.add_argument("--saes", type=int, default=32)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--old", default=BEFORE)
    parser.add_argument("--skip-old", action="store_true")
    parser.add_argument("--child", choices=["old", "new"])
    given = parser.parse_args()
    alone = given.child and measure(given.child, int(given.tokens[0]), given.saes, given.shards)
    result = alone or by_turns(given)
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


def by_turns(given: argparse.Namespace) -> dict[str, Any]:
    """Every size, each turn with both versions."""
    results: dict[str, Any] = {"saes": given.saes, "d_sae": D_SAE, "l0": L0, "shards": given.shards}
    with tempfile.TemporaryDirectory() as name:
        old = None if given.skip_old else checkout(given.old, Path(name) / "old")
        for size in given.tokens:
            tokens = int(size.removesuffix("k")) * 1024
            turns: list[dict[str, Any]] = []
            for _ in range(given.turns):
                versions = {"new": ROOT} if old is None else {"old": old, "new": ROOT}
                turns.append({v: child(v, path, tokens, given) for v, path in versions.items()})
            results[f"{size} tokens"] = turns
    return results


def checkout(commit: str, folder: Path) -> Path:
    """The package as it was."""
    archive = subprocess.run(
        ["git", "archive", commit, "safesail"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    (folder / "bench_store.py").write_text(Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")
    return folder


def child(version: str, path: Path, tokens: int, given: argparse.Namespace) -> dict[str, Any]:
    """One version, in a process of its own."""
    script = ["-m", "tests.benchmarks.bench_store"] if version == "new" else ["bench_store.py"]
    options = [
        "--child",
        version,
        "--tokens",
        str(tokens),
        "--saes",
        str(given.saes),
        "--shards",
        str(given.shards),
    ]
    done = subprocess.run(
        [sys.executable, *script, *options], cwd=path, env={**os.environ, "PYTHONPATH": str(path)},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


class Clock:
    """Wall and CPU time by phase."""

    def __init__(self) -> None:
        self.wall = dict.fromkeys(PHASES, 0.0)
        self.cpu = dict.fromkeys(PHASES, 0.0)

    def lap(self, phase: str, began: tuple[float, float]) -> None:
        """Add what passed since."""
        self.wall[phase] += time.perf_counter() - began[0]
        self.cpu[phase] += time.process_time() - began[1]


def now() -> tuple[float, float]:
    """Wall and CPU time."""
    return time.perf_counter(), time.process_time()


def measure(version: str, tokens: int, n_saes: int, n_shards: int) -> dict[str, Any]:
    """Shards through sort, write and finish; one shard at a time, so that each phase has its own time."""
    from safesail.domain.records import SaeInfo, SubjectInfo
    from safesail.store.connection import limited_memory, open_writer
    from safesail.store.harvest import open_harvest, read_harvest
    from safesail.store.sql import rows

    clock = Clock()
    infos = [
        SaeInfo(f"s{i}", "made", f"blocks.{i}.hook_mlp_out", 8, D_SAE, "topk", "a" * 64, "made", k=L0)
        for i in range(n_saes)
    ]
    with tempfile.TemporaryDirectory() as name:
        store = Path(name) / "store.duckdb"
        with open_writer(store) as db, limited_memory(db, 64):
            record = open_harvest(
                db, "h", SubjectInfo("made", "f" * 64, 8, 1), infos, {"n_ctx": N_CTX}, replace=False
            )
            for number in range(n_shards):
                write(version, db, record, (number, tokens), clock)
            staged = sum(f.stat().st_size for f in Path(f"{store}.harvest").rglob("*") if f.is_file())
            began = now()
            finish(version, db, read_harvest(db, record.key, record.sae_keys))
            clock.lap("finish", began)
            n = int(rows(db, "SELECT count(*) FROM activations_f32")[0][0])
        size = store.stat().st_size
    assert n == tokens * n_shards * n_saes * L0
    return {
        "nonzeros": n,
        "million_per_second": {p: round(n / clock.wall[p] / 1e6, 2) for p in PHASES},
        "cpu_ns_per_nonzero": {p: round(clock.cpu[p] / n * 1e9, 1) for p in PHASES},
        "staged_bytes_per_nonzero": round(staged / n, 2),
        "store_bytes_per_nonzero": round(size / n, 2),
        "peak_mb": int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024,
        "load_average": round(os.getloadavg()[0], 1),
    }


def write(version: str, db: Any, record: Any, which: tuple[int, int], clock: Clock) -> None:
    """Sort and write one shard."""
    from safesail.harvest.activations import ShardResult
    from safesail.harvest.writer import Writer

    number, tokens = which
    shard = made_shard(number, tokens)
    batches = made_batches(number, tokens)
    began = now()
    nonzeros: dict[str, Any] = {}
    second: dict[str, Any] = {}
    for sae_id in record.sae_keys:
        nonzeros[sae_id], second[sae_id] = (
            sort_new(batches, tokens) if version == "new" else sort_old(batches, number * tokens)
        )
    clock.lap("sort", began)
    windows = shard.windows(N_CTX)
    spelled = [tuple(f" {i % 20_000}" for i in w.token_ids) for w in windows]
    histograms = {} if version == "new" else second
    result = ShardResult(shard, windows, spelled, [False] * len(shard.documents), nonzeros, histograms)
    began = now()
    with Writer(db, record) as writer:
        writer.put(result)
    clock.lap("write", began)


def sort_new(batches: list[Any], tokens: int) -> tuple[Any, Any]:
    """As `finish_shard` does."""
    import numpy as np

    from safesail.store.runs import Run

    feature, slot, value = (np.concatenate(column) for column in zip(*batches, strict=True))
    return Run.of(feature, slot, value, d_sae=D_SAE, n_slots=tokens), None


def sort_old(batches: list[Any], first: int) -> tuple[Any, Any]:
    """As `finish_shard` did."""
    from safesail.harvest import activations as old  # of the earlier commit

    module: Any = old
    joined = module._join([module.Nonzeros(f, t + first, v) for f, t, v in batches])
    return joined, module.histogram(joined)


def finish(version: str, db: Any, record: Any) -> None:
    """The final merge."""
    from safesail.store import harvest

    module: Any = harvest
    d_sae = dict.fromkeys(record.sae_keys, D_SAE)
    if version == "new":
        module.finish_harvest(db, record, d_sae, "f32")
    else:
        from safesail.harvest import activations as old

        module.finish_harvest(db, record, d_sae, "f32", vars(old)["bin_middle"])


def made_shard(number: int, tokens: int) -> Any:
    """A shard of documents of 1,024 tokens, whose numbers follow Zipf's law as words do."""
    import numpy as np

    from safesail.domain.records import Document
    from safesail.harvest.shards import Shard, TokenizedDocument

    draw = np.random.default_rng(number)
    documents = [
        TokenizedDocument(
            Document(f"{number}-{i}", "text", "made", "train"),
            tuple((draw.zipf(1.2, 1024) % 49_000).tolist()),
        )
        for i in range(tokens // 1024)
    ]
    return Shard(number, tuple(documents), number * tokens // N_CTX)


def made_batches(number: int, tokens: int) -> list[Any]:
    """Columns (feature, token, value) per batch; densities of features differ a hundredfold, as they do in SAEs."""
    import numpy as np

    draw = np.random.default_rng(number)
    windows = draw.permutation(tokens // N_CTX).reshape(BATCHES, -1)
    batches = []
    for own in windows:
        token = (own[:, None] * N_CTX + np.arange(N_CTX)).reshape(-1)
        level = (np.arange(L0) + draw.random((len(token), L0))) / L0  # distinct features, ascending
        feature = (D_SAE * (100**level - 1) / 99).astype(np.int32)
        value = draw.lognormal(0, 0.7, feature.size).astype(np.float32)
        batches.append((feature.reshape(-1), np.repeat(token, L0).astype(np.int64), value))
    return batches


if __name__ == "__main__":
    main()

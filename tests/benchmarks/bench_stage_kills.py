"""Every stage but the harvest killed at random moments and started again, held against one that nobody disturbed.

    python -m tests.benchmarks.bench_stage_kills [KILLS [SEED [STAGE ...]]]

Each stage runs in a process of its own, on a small trained model (stories260k, from the shared material) with a made
SAE, or on the store that it gave. It is killed (SIGKILL) after a random time, drawn evenly over the time of an
undisturbed run, and started again until it comes to its end; then all that it writes is compared. One JSON object on
standard output; by stage `differing`, `left_over` (files that nobody cleaned up) and `paid_twice` must be empty or 0.
Harvests are killed by `bench_kills`, calls of an endpoint by `bench_budget`.
"""

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from safesail.store.connection import open_reader, open_writer
from safesail.store.sql import rows, value
from tests.benchmarks.bench_harvest import SHARED, made_sae, texts_file
from tests.selection_kills import TABLES as SELECTED

MODEL = str(SHARED / "models" / "stories260k")
EXPLAINED = {
    "explanations": "SELECT * EXCLUDE (ordinal) FROM explanations",
    "scores": "SELECT * EXCLUDE (run_id, ordinal) FROM scores",
    "tags": "FROM tags",
    "good answers": "SELECT DISTINCT cache_key, answer FROM llm_calls WHERE status = 'ok'",
}
IMPORTED = {
    name: f"FROM {name}"
    for name in ("explanations", "scores", "tags", "concepts", "feature_concepts", "features")
}


def prepare(folder: Path) -> None:
    """What the stages start from: SAE, text, harvest, store and release."""
    from safesail.catalog.config import ReleaseOptions
    from safesail.catalog.release import build_release
    from safesail.harvest.config import HarvestConfig
    from safesail.harvest.run import HarvestJob, run_harvest
    from tests.harvest_kills_child import load

    sae, text = made_sae(folder, MODEL, d_sae=256, k=8), texts_file(folder, 30_000, a_document=300)
    subject, saes = load(MODEL, [sae])
    with open_writer(folder / "harvested.duckdb") as db:
        config = HarvestConfig(n_ctx=32, n_tokens=6_000, shard_tokens=2_000)
        run_harvest(db, HarvestJob(subject, saes, [str(text)], config), quiet=True)
    shutil.copy(folder / "harvested.duckdb", folder / "explained.duckdb")
    explain(folder, folder / "explained.duckdb")
    build_release(folder / "explained.duckdb", folder / "released", ReleaseOptions(name="made"), quiet=True)


def train(folder: Path, out: Path) -> None:
    """Train two SAEs."""
    from safesail.training.config import FamilyConfig, TextConfig, TrainConfig
    from safesail.training.run import run_training

    family = FamilyConfig(hook="blocks.1.hook_mlp_out", ks=(4, 8), widths=(128,))
    text = TextConfig(source=str(folder / "texts.jsonl"))
    config = TrainConfig(model=MODEL, families=(family,), texts=(text,), n_tokens=4_000, block_tokens=1_000)
    run_training(config, out=out, quiet=True)


def select(folder: Path, store: Path) -> None:
    """Score an SAE on the hate concepts that come along."""
    from safesail.concepts.read import load_concepts
    from safesail.selection.config import SelectionConfig
    from safesail.selection.run import run_selection
    from tests.harvest_kills_child import load

    subject, saes = load(MODEL, [str(folder / "made")])
    with open_writer(store) as db:
        run_selection(db, subject, saes, load_concepts((), ("hate",)), SelectionConfig(draws=50), quiet=True)


def explain(folder: Path, store: Path) -> None:
    """Explain and score the densest features with the built-in model."""
    from safesail.autointerp.clients import ChatSettings
    from safesail.autointerp.config import AutointerpConfig
    from safesail.autointerp.ranking import FeatureChoice
    from safesail.autointerp.run import explain_store
    from safesail.llm.budget import parse_budget

    if not store.exists():
        shutil.copy(folder / "harvested.duckdb", store)
    choice = FeatureChoice(densest=20, sae_id="made")
    explain_store(
        store, choice, ChatSettings("lexical", "lexical", parse_budget("1M")), AutointerpConfig(), quiet=True
    )


def release(folder: Path, out: Path) -> None:
    """Write a release, in the place of one that is there."""
    from safesail.catalog.config import ReleaseOptions
    from safesail.catalog.release import build_release

    build_release(folder / "explained.duckdb", out, ReleaseOptions(name="made"), quiet=True)


def download(folder: Path, out: Path) -> None:
    """Get a release from a folder."""
    from safesail.catalog.download import download as get

    get(str(folder / "released"), out, quiet=True)


def import_(folder: Path, store: Path) -> None:
    """Bring a release into a store."""
    from safesail.catalog.config import ImportOptions
    from safesail.catalog.importing import import_catalog

    import_catalog(store, folder / "released", ImportOptions(name="made"))


STAGES: dict[str, tuple[Callable[[Path, Path], None], dict[str, str] | None]] = {
    "select": (select, SELECTED), "explain": (explain, EXPLAINED), "import": (import_, IMPORTED),
    "release": (release, None), "download": (download, None), "train": (train, None),
}  # fmt: skip
"""What a stage does, and the tables that it writes; None: a folder."""


def contents(stage: str, target: Path) -> dict[str, Any]:
    """What a stage has written, by table or file."""
    tables = STAGES[stage][1]
    if tables is None:
        files = [f for f in sorted(target.rglob("*")) if f.is_file()]
        return {str(f.relative_to(target)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    with open_reader(target) as db:
        return {name: rows(db, f"SELECT * FROM ({sql}) ORDER BY ALL") for name, sql in tables.items()}


def _live(stage: str, folder: Path, target: Path, out: Connection) -> None:
    out.send(None)
    STAGES[stage][0](folder, target)


def run_alone(stage: str, folder: Path, target: Path, kill_after: float | None = None) -> tuple[float, bool]:
    """Seconds that a stage took in a process of its own, and whether it was killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.harvest_kills_child"])
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_live, args=(stage, folder, target, there))
    process.start()
    there.close()
    here.recv()
    started = time.perf_counter()
    process.join(kill_after)
    killed = process.is_alive()
    process.kill()
    process.join()
    if not killed and process.exitcode != 0:
        raise RuntimeError(f"{stage} ended by itself with {process.exitcode}")
    return time.perf_counter() - started, killed


def kill_and_resume(stage: str, folder: Path, n_kills: int, seed: int) -> dict[str, Any]:
    """Run a stage again and again, with kills, until there were `n_kills`."""
    draw, suffix = random.Random(seed), ".duckdb" if STAGES[stage][1] else ""
    work = folder / f"{stage}-work"
    work.mkdir()
    seconds, _ = run_alone(stage, folder, work / f"whole{suffix}")
    expected = contents(stage, work / f"whole{suffix}")
    kills, runs, differing, left, twice = 0, 0, Counter[str](), list[str](), 0
    while kills < n_kills:
        target = work / f"{runs}{suffix}"
        while run_alone(stage, folder, target, draw.uniform(0, seconds) if kills < n_kills else None)[1]:
            kills += 1
        written = contents(stage, target)
        differing.update(
            name for name in expected.keys() | written.keys() if written.get(name) != expected.get(name)
        )
        left += [
            f.name for f in work.iterdir() if f.name.startswith(f".{target.name}") or f.suffix == ".selection"
        ]
        if stage == "explain":
            with open_reader(target) as db:
                again = "SELECT count(*) - count(DISTINCT cache_key) FROM llm_calls WHERE status = 'ok'"
                twice += int(value(db, again))
        runs += 1
    return {"kills": kills, "runs": runs, "undisturbed_seconds": round(seconds, 2), "compared": sorted(expected)[:12],
            "differing": dict(differing), "left_over": left, "paid_twice": twice}  # fmt: skip


def main() -> None:
    """Run and print."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    n, seed = (int(a) for a in (*sys.argv[1:3], *("30", "0")[len(sys.argv[1:3]) :]))
    result: dict[str, Any] = {"seed": seed}
    with tempfile.TemporaryDirectory() as name:
        os.environ["SAFESAIL_CACHE"] = f"{name}/cache"
        prepare(Path(name))
        for stage in sys.argv[3:] or STAGES:
            result[stage] = kill_and_resume(stage, Path(name), n, seed)
            sys.stderr.write(f"{stage}: {json.dumps(result[stage])}\n")
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

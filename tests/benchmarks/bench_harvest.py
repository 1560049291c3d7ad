"""Speed, memory, size on disk and reading time of a harvest.

    python -m tests.benchmarks.bench_harvest [speed] [real] [memory] [--tokens N]

`speed`: harvests of SmolLM2 and bare runs of the same batches by turns: the model up to the deepest hook, and the
encode multiplications; for one SAE and for three. `real`: one harvest of SmolLM2 in each precision: bytes a nonzero,
time to read a feature, nonzeros by SQL against those of single tokens encoded one by one. `memory`: harvests of a small
model with a made SAE, each in a process of its own: peak memory, and size and reading time of the largest store. All
three take 10 to 15 minutes on two idle cores; `--tokens` (default 8k) scales the first two. One JSON object on standard
output.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from safesail.domain.ids import FeatureId
from safesail.harvest.config import HarvestConfig
from safesail.harvest.run import HarvestJob, run_harvest
from safesail.harvest.shards import Shard, Window, cut_shards
from safesail.resources import cache_dir
from safesail.sae.load import open_sae
from safesail.sae.protocol import SAE
from safesail.sae.save import save_sae, topk_config
from safesail.store.connection import Db, open_reader, open_writer
from safesail.store.shown import exemplar_rows
from safesail.store.sql import Row, rows, value
from safesail.subject.fetch import fetch
from safesail.subject.loading import ModelConfig, load_subject
from safesail.subject.protocol import Subject
from safesail.subject.rows import batches_by_length
from safesail.subject.workers import open_workers
from safesail.text.documents import read_documents

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("SAFESAIL_SHARED", ROOT.parent / "shared"))
SAES = {layer: ROOT / "data" / "saes" / f"smollm2-l{layer}-mlp-k32" for layer in (6, 14, 22)}
N_CTX, BATCH_TOKENS = 128, 2_048
MEMORY_TOKENS = (50_000, 200_000, 800_000)
READS = 120

Loaded = tuple[Subject, list[SAE]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", default=["speed", "real", "memory"])
    parser.add_argument("--tokens", type=int, default=8_000)
    parser.add_argument("--child", nargs=3)
    given = parser.parse_args()
    if given.child:
        result = harvest_small(Path(given.child[0]), int(given.child[1]), given.child[2])
    else:
        run = {"speed": speed, "real": real, "memory": memory}
        result = {"threads": torch.get_num_threads()} | {
            part: run[part](given.tokens) for part in given.parts
        }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


def texts_file(folder: Path, n_characters: int, *, a_document: int = 1_500) -> Path:
    """Documents of so many characters out of wikitext2, numbered anew when the set is read again."""
    whole = "\n".join(f.read_text() for f in sorted((SHARED / "data" / "wikitext2").glob("*.txt")))
    path = folder / "texts.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for n, start in enumerate(range(0, n_characters, a_document)):
            part = whole[start % len(whole) : start % len(whole) + a_document]
            file.write(json.dumps({"text": f"{n}. {part}"}) + "\n")
    return path


def made_sae(folder: Path, model: str, *, d_sae: int, k: int) -> str:
    """A TopK SAE with random directions at the second layer of `model`."""
    d_in = load_subject(ModelConfig(model)).info.d_model
    assert d_in is not None
    generator = torch.Generator().manual_seed(0)
    w_dec = torch.nn.functional.normalize(torch.randn(d_sae, d_in, generator=generator), dim=1)
    meta = {
        "hook_name": "blocks.1.hook_mlp_out",
        "model_name": "made",
        "sae_lens_version": importlib.metadata.version("sae_lens"),
    }
    weights = {
        "W_enc": w_dec.T.contiguous(),
        "W_dec": w_dec,
        "b_enc": torch.zeros(d_sae),
        "b_dec": torch.zeros(d_in),
    }
    save_sae(folder / "made", weights, topk_config(d_in, d_sae, k, meta))
    return str(folder / "made")


def smollm2(layers: Sequence[int]) -> Loaded:
    """SmolLM2 and its SAEs at these layers."""
    fetch("smollm2", cache=cache_dir(), quiet=True)
    subject = load_subject(ModelConfig("smollm2"))
    return subject, [open_sae(str(SAES[layer]), model=subject.info) for layer in layers]


# --- speed -----------------------------------------------------------------------------------------------------------


def speed(n_tokens: int) -> dict[str, Any]:
    """Tokens a second of a harvest, as a share of the bare runs beside it."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        text = str(texts_file(Path(name), 8 * n_tokens))
        for layers, pairs in (((6, 14, 22), 3), ((14,), 3)):
            loaded = smollm2(layers)
            config = HarvestConfig(
                n_ctx=N_CTX, n_tokens=n_tokens, shard_tokens=n_tokens // 4, batch_tokens=BATCH_TOKENS
            )
            documents = read_documents([text])
            shards = list(
                cut_shards(
                    documents,
                    loaded[0].tokenize,
                    n_ctx=N_CTX,
                    shard_tokens=n_tokens // 4,
                    n_tokens=n_tokens,
                )
            )
            bare(loaded, shards[:1], in_streams=True)
            measured = [
                (
                    bare(loaded, shards, in_streams=False),
                    bare(loaded, shards, in_streams=True),
                    ours(loaded, text, config),
                )
                for _ in range(pairs)
            ]
            found[f"{len(layers)} SAE at layers {layers}"] = {
                "bare_tokens_per_second": [round(b, 1) for b, _, _ in measured],
                "bare_in_streams_tokens_per_second": [round(s, 1) for _, s, _ in measured],
                "harvest_tokens_per_second": [round(o, 1) for _, _, o in measured],
                "median_share": round(median(o / b for b, _, o in measured), 3),
                "median_share_of_streams": round(median(o / s for _, s, o in measured), 3),
            }
    return found


def bare(loaded: Loaded, shards: Sequence[Shard], *, in_streams: bool) -> float:
    """Tokens a second of the model up to the deepest hook and one multiplication by W_enc for every SAE.

    Args:
        loaded: Model and SAEs.
        shards: What to run.
        in_streams: Batches run at once, as a harvest runs them; otherwise one by one on all threads.
    """
    subject, saes = loaded
    encoders = {sae.info.sae_id: torch.randn(sae.info.d_in, sae.info.d_sae) for sae in saes}
    hooks = sorted({sae.info.hook for sae in saes})

    def run(windows: Sequence[Window]) -> int:
        rows_of_ids = [torch.tensor(w.token_ids) for w in windows]
        padded = torch.nn.utils.rnn.pad_sequence(rows_of_ids, batch_first=True)
        real_ones = torch.nn.utils.rnn.pad_sequence(
            [torch.ones_like(r) for r in rows_of_ids], batch_first=True
        )
        acts = subject.run(padded, capture=hooks).activations
        for sae in saes:
            torch.mm(acts[sae.info.hook][real_ones.bool()], encoders[sae.info.sae_id])
        return int(real_ones.sum())

    with open_workers(subject.device, BATCH_TOKENS if in_streams else 1) as streams:
        start = time.perf_counter()
        running = [
            streams.submit(run, [windows[i] for i in batch])
            for windows in (shard.windows(N_CTX) for shard in shards)
            for batch in reversed(
                batches_by_length([len(w.token_ids) for w in windows], BATCH_TOKENS // streams.n)
            )
        ]
        return sum(r.result() for r in running) / (time.perf_counter() - start)


def ours(loaded: Loaded, text: str, config: HarvestConfig) -> float:
    """Tokens a second of a whole harvest: reading, cutting, running, storing, sorting, statistics."""
    with tempfile.TemporaryDirectory() as name, open_writer(Path(name) / "store.duckdb") as db:
        report = run_harvest(db, HarvestJob(*loaded, [text], config), quiet=True)
    return report.n_tokens / report.seconds


# --- size and reading ------------------------------------------------------------------------------------------------


def real(n_tokens: int) -> dict[str, Any]:
    """One SAE of SmolLM2 at layer 6, in both precisions."""
    loaded = smollm2([6])
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        text = str(texts_file(Path(name), 8 * n_tokens))
        for precision in ("f32", "u8"):
            config = HarvestConfig(n_ctx=N_CTX, n_tokens=n_tokens, precision=precision)
            store = Path(name) / f"{precision}.duckdb"
            with open_writer(store) as db:
                run_harvest(db, HarvestJob(*loaded, [text], config), quiet=True)
            found[precision] = sizes_and_reads(store, precision)
        with open_reader(Path(name) / "f32.duckdb") as db:
            found["nonzeros"] = {
                "by_sql": value(db, "SELECT count(*) FROM activations"),
                "plain": plain_count(loaded, db),
                "test_windows_in_documents_of_train_windows": leaks(db),
            }
    return found


def plain_count(loaded: Loaded, db: Db) -> int:
    """Nonzeros of every token by itself: no batches, no padding, no shards, no store."""
    subject, (sae,) = loaded
    count = 0
    for (ids,) in rows(db, "SELECT token_ids FROM windows"):
        hidden = subject.run(torch.tensor([ids]), capture=[sae.info.hook]).activations[sae.info.hook][0]
        count += sum(len(sae.encode(token[None]).value) for token in hidden)
    return count


def leaks(db: Db) -> int:
    """Test windows whose document has a train window."""
    return int(
        value(
            db,
            "SELECT count(*) FROM windows WHERE split = 'test' AND document_id IN"
            " (SELECT document_id FROM windows WHERE split = 'train')",
        )
    )


def sizes_and_reads(store: Path, precision: str) -> dict[str, Any]:
    """Bytes a nonzero of the activations' table, copied into a file of its own, and time to read a feature."""
    with open_writer(store) as db:  # a reader may attach no new file
        n = int(value(db, "SELECT count(*) FROM activations"))
        alone = store.with_suffix(".alone")
        db.execute(f"ATTACH '{alone}' AS alone")
        empty = _bytes_of(db, alone)
        db.execute(f"CREATE TABLE alone.a AS FROM activations_{precision}")
        if precision == "u8":
            db.execute("CREATE TABLE alone.s AS FROM activation_scales")
        used = _bytes_of(db, alone) - empty
        found = {"nonzeros": n, "bytes_a_nonzero": round(used / n, 3), "store_bytes": store.stat().st_size}
        return found | {"top_20_windows_ms": read_times(db)}


def _bytes_of(db: Db, path: Path) -> int:
    db.execute("CHECKPOINT alone")
    return path.stat().st_size


def read_times(db: Db) -> dict[str, Any]:
    """Milliseconds to read the 20 strongest windows of a feature, tokens and activations; over many features.

    `library`: as `catalog show` reads them; `view`: by SQL; both by turns.
    """
    fire = rows(
        db,
        "SELECT sae_id, feature FROM features WHERE n_active > 0 ORDER BY md5(feature::TEXT) LIMIT ?",
        [READS],
    )
    sql = 'SELECT * FROM exemplars WHERE sae_id = ? AND "index" = ? ORDER BY maximum DESC, window_id LIMIT 20'
    ways: dict[str, Callable[[Row], object]] = {
        "library": lambda of: exemplar_rows(db, FeatureId(*of), 20),
        "view": lambda of: rows(db, sql, list(of)),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for of in [fire[0], *fire]:
        for name, read in ways.items():
            times[name].append(milliseconds(lambda read=read, of=of: read(of)))
    return {"features": len(fire)} | {name: _spread(found[1:]) for name, found in times.items()}


def _spread(times: list[float]) -> dict[str, float]:
    low, high = np.quantile(times, [0.5, 0.95])
    return {"median": round(float(low), 2), "p95": round(float(high), 2)}


def milliseconds(run: Callable[[], object]) -> float:
    """Time of one call."""
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


# --- memory ----------------------------------------------------------------------------------------------------------


def memory(_: int) -> dict[str, Any]:
    """Peak memory of harvests of a small model, each in a process of its own."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made_sae(folder, str(SHARED / "models" / "stories260k"), d_sae=1_536, k=32)
        texts_file(folder, 4 * MEMORY_TOKENS[-1])
        for n_tokens, precision in (*((n, "f32") for n in MEMORY_TOKENS), (MEMORY_TOKENS[1], "u8")):
            child = ["--child", name, str(n_tokens), precision]
            command = [sys.executable, "-m", "tests.benchmarks.bench_harvest", *child]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[f"{n_tokens} {precision}"] = json.loads(done.stdout)
            if n_tokens != MEMORY_TOKENS[0]:
                store = folder / f"{n_tokens}-{precision}.duckdb"
                found[f"{n_tokens} {precision}"] |= sizes_and_reads(store, precision)
    peaks = [found[f"{n} f32"]["peak_mb"] for n in MEMORY_TOKENS]
    return found | {"largest_peak_over_smallest": round(max(peaks) / min(peaks), 3)}


def harvest_small(folder: Path, n_tokens: int, precision: str) -> dict[str, Any]:
    """In a process of its own: one harvest, and the most memory it ever held."""
    subject = load_subject(ModelConfig(str(SHARED / "models" / "stories260k")))
    sae = open_sae(str(folder / "made"), model=subject.info)
    before = most_memory()
    config = HarvestConfig.model_validate({"n_ctx": N_CTX, "n_tokens": n_tokens, "precision": precision})
    job = HarvestJob(subject, [sae], [str(folder / "texts.jsonl")], config)
    with open_writer(folder / f"{n_tokens}-{precision}.duckdb") as db:
        report = run_harvest(db, job, quiet=True)
    return {
        "loaded_mb": before,
        "peak_mb": most_memory(),
        "tokens": report.n_tokens,
        "tokens_per_second": round(report.n_tokens / report.seconds, 1),
    }


def most_memory() -> int:
    """Most resident memory of this process so far, MB. Not getrusage's, which a child begins with its parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


if __name__ == "__main__":
    main()

"""One caching run of delphi, in delphi's own environment: `python run_delphi.py PLAN`; prints one JSON object.

Everything is called as delphi's own `populate_cache` calls it, with its defaults: 32 rows a batch, 5 splits.
"""

import json
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from delphi.config import CacheConfig, ConstructorConfig, SamplerConfig  # pyright: ignore[reportMissingImports]
from delphi.latents import LatentCache, LatentDataset  # pyright: ignore[reportMissingImports]
from delphi.latents.loader import TensorBuffer  # pyright: ignore[reportMissingImports]
from delphi.sparse_coders.load_sparsify import sae_dense_latents  # pyright: ignore[reportMissingImports]
from sparsify import SparseCoder  # pyright: ignore[reportMissingImports]
from transformers import AutoModel, PreTrainedTokenizerFast

N_WINDOWS = 20


def main() -> None:
    """Cache, save, read back."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(plan["threads"])
    model = AutoModel.from_pretrained(plan["model"], torch_dtype=torch.float32).eval()
    coders = {hook: SparseCoder.load_from_disk(path, device="cpu") for hook, path in plan["coders"].items()}
    rows = torch.from_numpy(np.load(plan["rows"])[: plan["n_rows"]])
    config = CacheConfig(cache_ctx_len=rows.shape[1], n_tokens=rows.numel())
    out = Path(plan["out"])
    out.mkdir(parents=True)
    before = peak_bytes()
    start, cpu = time.perf_counter(), time.process_time()
    cache = LatentCache(
        model, {hook: partial(sae_dense_latents, sae=c) for hook, c in coders.items()}, config.batch_size
    )
    cache.run(config.n_tokens, rows)
    ran = time.perf_counter()
    cache.save_splits(config.n_splits, out)
    cache.save_config(out, config, plan["model"])
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    # Its last partial batch is left out by delphi itself.
    n_rows = len(rows) // config.batch_size * config.batch_size
    nonzeros = {hook: len(a) for hook, a in cache.cache.latent_activations.items()}
    first = next(iter(coders))
    text = cache.cache.latent_locations[first][:, 1] > 0
    result = {
        "n_tokens": n_rows * (rows.shape[1] - 1),
        "n_rows": n_rows,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "seconds_saving": seconds - (ran - start),
        "nonzeros": sum(nonzeros.values()),
        "counts": torch.bincount(
            cache.cache.latent_locations[first][text, 2], minlength=cache.width
        ).tolist(),
        "memory_before": before,
        "memory_peak": peak_bytes(),
        "file_bytes": sum(f.stat().st_size for f in out.rglob("*.safetensors")),
        "token_bytes": config.n_splits * n_rows * rows.shape[1] * 8 * len(coders),
    }
    if plan["features"]:
        del cache
        result |= read_times(out, first, plan["features"], plan["model"])
    sys.stdout.write(json.dumps(result) + "\n")


def read_times(out: Path, hook: str, features: list[int], model: str) -> dict[str, dict[str, float]]:
    """Milliseconds to one feature's top windows: with the least work, and as delphi's pipeline does it."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
    edges = sorted(tuple(int(n) for n in f.stem.split("_")) for f in (out / hook).glob("*.safetensors"))
    sampler = SamplerConfig(n_examples_train=N_WINDOWS, train_type="top")
    least: list[float] = []
    whole: list[float] = []
    for feature in features:
        start = time.perf_counter()
        first, last = next(e for e in edges if e[0] <= feature <= e[1])
        buffer = TensorBuffer(str(out / hook / f"{first}_{last}.safetensors"), hook, torch.tensor([feature]))
        locations, activations, tokens = buffer.load()
        rows, inverse = locations[:, 0].unique(return_inverse=True)
        highest = torch.zeros(len(rows)).scatter_reduce(0, inverse, activations.float(), "amax")
        tokens[rows[highest.topk(min(N_WINDOWS, len(rows))).indices]]
        least.append(1000 * (time.perf_counter() - start))
        start = time.perf_counter()
        constructor = ConstructorConfig(min_examples=1)
        dataset = LatentDataset(out, sampler, constructor, tokenizer, [hook], {hook: torch.tensor([feature])})
        for _ in dataset:
            pass
        whole.append(1000 * (time.perf_counter() - start))
    return {"read_ms": spread(least), "read_with_examples_ms": spread(whole)}


def spread(milliseconds: list[float]) -> dict[str, float]:
    """Median and 95th percentile."""
    return {"median": median(milliseconds), "p95": float(np.quantile(milliseconds, 0.95))}


def peak_bytes() -> int:
    """Most resident memory of this process so far."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


if __name__ == "__main__":
    main()

"""What number formats change: SmolLM2 in bfloat16 and float16, and encoders in TF32, against float32, on a CPU.

    python -m tests.benchmarks.bench_formats [--tokens N]

The same windows of wikitext2 go through the model in each format and through its SAEs at layers 6, 14 and 22, which
compute in float32. TF32 has no arithmetic on a CPU: both factors of the encoders' products are rounded to 10 bits of
mantissa, as tensor cores do, and multiplied in float32. Per SAE: the share of (token, feature) keys that both have, of
those that either has; and of the common ones the median and the 99th percentile of |difference| / value. One JSON
object on standard output.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from safesail.sae.encode import EncodedRows, SparseColumns, encode_rows, run_rows
from safesail.sae.load import open_sae
from safesail.subject.loading import ModelConfig, load_subject
from tests.benchmarks.bench_harvest import SAES, SHARED

N_CTX = 128
DTYPES = ("float32", "bfloat16", "float16")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=1_024)
    n_tokens = parser.parse_args().tokens
    text = "\n".join(f.read_text() for f in sorted((SHARED / "data" / "wikitext2").glob("*.txt")))
    results: dict[str, Any] = {"tokens": n_tokens}
    exact: dict[str, SparseColumns] = {}
    for dtype in DTYPES:
        started = time.perf_counter()
        encoded = encode(dtype, text, n_tokens)
        seconds = round(time.perf_counter() - started, 1)
        if dtype == "float32":
            exact = dict(encoded.by_sae)
            continue
        results[dtype] = {name: difference(exact[name], own) for name, own in encoded.by_sae.items()}
        results[dtype]["seconds"] = seconds
    results["tf32"] = tf32(text, n_tokens)
    sys.stdout.write(json.dumps(results, indent=2) + "\n")


def windows(tokenize: Callable[[str], list[int]], text: str, n_tokens: int) -> list[list[int]]:
    """Token ids in windows."""
    ids = tokenize(text[: 8 * n_tokens])[:n_tokens]
    return [ids[i : i + N_CTX] for i in range(0, len(ids), N_CTX)]


def encode(dtype: str, text: str, n_tokens: int) -> EncodedRows:
    """The model in one format, and its SAEs."""
    subject = load_subject(ModelConfig("smollm2", "cpu", dtype))
    saes = [open_sae(str(path), model=subject.info) for path in SAES.values()]
    return encode_rows(subject, saes, windows(subject.tokenize, text, n_tokens))


def keys(columns: SparseColumns) -> NDArray[np.int64]:
    """One number per nonzero."""
    position = columns.row.astype(np.int64) * N_CTX + columns.position
    return position * (1 << 20) + columns.feature


def difference(exact: SparseColumns, other: SparseColumns) -> dict[str, float]:
    """Of two runs of one SAE."""
    return compare((keys(exact), exact.value), (keys(other), other.value))


def compare(
    exact: tuple[NDArray[np.int64], NDArray[np.float32]], other: tuple[NDArray[np.int64], NDArray[np.float32]]
) -> dict[str, float]:
    """Share of common keys, and errors of their values."""
    common, here, there = np.intersect1d(exact[0], other[0], return_indices=True)
    error = np.abs(other[1][there] - exact[1][here]) / exact[1][here]
    median, p99 = np.quantile(error, [0.5, 0.99])
    union = len(exact[0]) + len(other[0]) - len(common)
    return {
        "common_keys": round(len(common) / union, 5),
        "median_error": float(f"{median:.2g}"),
        "p99_error": float(f"{p99:.2g}"),
    }


def tf32(text: str, n_tokens: int) -> dict[str, Any]:
    """The encoders' products with factors of 10 bits."""
    subject = load_subject(ModelConfig("smollm2", "cpu"))
    results: dict[str, Any] = {}
    for path in SAES.values():
        sae: Any = open_sae(str(path), model=subject.info)
        ran = run_rows(subject, windows(subject.tokenize, text, n_tokens), [sae.info.hook])
        exact = sae.encode(ran.by_hook[sae.info.hook])
        inner = sae._inner
        x = ran.by_hook[sae.info.hook] - inner.b_dec
        inner.W_enc.data = rounded(inner.W_enc.data)
        inner.b_dec.data.zero_()  # taken off before the rounding
        other = sae.encode(rounded(x))
        both = [((a.token * (1 << 20) + a.feature).numpy(), a.value.numpy()) for a in (exact, other)]
        results[sae.info.sae_id] = compare(both[0], both[1])
    return results


def rounded(x: torch.Tensor) -> torch.Tensor:
    """To 10 bits of mantissa, to nearest."""
    bits = x.contiguous().view(torch.int32)
    return ((bits + (1 << 12)) & ~((1 << 13) - 1)).view(torch.float32)


if __name__ == "__main__":
    main()

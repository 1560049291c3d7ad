"""Harvests killed at random moments: `tests/harvest_kills.py` says what is run.

    python -m tests.benchmarks.bench_kills [KILLS [SEED]]

A harvest of a small trained model (stories260k, from the shared material) with one made SAE, about 6,000 tokens in 20
shards; 50 kills take about four minutes. One JSON object on standard output; `differing` must be empty.
"""

import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from safesail.harvest.config import HarvestConfig
from tests.benchmarks.bench_harvest import SHARED, made_sae, texts_file
from tests.harvest_kills import Setup, kill_and_resume


def main() -> None:
    """Run and print."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    n, seed = (int(a) for a in (*sys.argv[1:], *("50", "0")[len(sys.argv) - 1 :]))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = str(SHARED / "models" / "stories260k")
        setup = Setup(
            model,
            (made_sae(folder, model, d_sae=256, k=8),),
            str(texts_file(folder, 30_000, a_document=300)),
            HarvestConfig(n_ctx=32, n_tokens=6_000, shard_tokens=300, precision="u8"),
        )
        outcome = kill_and_resume(setup, folder, n_kills=n, seed=seed)
    result = asdict(outcome) | {"seed": seed, "seconds": round(time.perf_counter() - started)}
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

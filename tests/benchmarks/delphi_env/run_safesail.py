"""One harvest, in a process of its own: `python run_safesail.py PLAN`; prints one JSON object."""

import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from safesail.domain.ids import FeatureId
from safesail.harvest.config import HarvestConfig
from safesail.harvest.run import HarvestJob, run_harvest
from safesail.sae.load import open_sae
from safesail.store.connection import Db, open_reader, open_writer
from safesail.store.exemplars import fetch_windows, find_feature
from safesail.store.sql import rows, value
from safesail.subject.loading import ModelConfig, load_subject

N_WINDOWS = 20


def main() -> None:
    """Harvest, count, read back."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    subject = load_subject(ModelConfig(plan["model"], threads=plan["threads"]))
    saes = [open_sae(path, model=subject.info) for path in plan["saes"]]
    config = HarvestConfig(n_ctx=plan["n_ctx"], n_tokens=plan["n_tokens"], precision=plan["precision"])
    store = Path(plan["out"])
    before = peak_bytes()
    start, cpu = time.perf_counter(), time.process_time()
    with open_writer(store) as db:
        report = run_harvest(db, HarvestJob(subject, saes, [plan["text"]], config), quiet=True)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    with open_reader(store) as db:
        result: dict[str, Any] = {
            "n_tokens": report.n_tokens,
            "seconds": seconds,
            "cpu_seconds": cpu,
            "nonzeros": report.n_nonzeros,
            "memory_before": before,
            "memory_peak": peak_bytes(),
            "file_bytes": store.stat().st_size,
            "table_bytes": table_bytes(db, f"activations_{plan['precision']}"),
            "counts": counts(db, saes[0].info.sae_id, saes[0].info.d_sae, plan["n_rows"], plan["n_ctx"]),
        }
        if plan["features"]:
            result["read_ms"] = read_times(db, saes[0].info.sae_id, plan["features"])
    sys.stdout.write(json.dumps(result) + "\n")


def table_bytes(db: Db, table: str) -> int:
    """Bytes of the blocks that hold a table's rows."""
    blocks = f"SELECT count(DISTINCT block_id) FROM pragma_storage_info('{table}') WHERE block_id >= 0"
    return int(value(db, blocks)) * int(value(db, "SELECT block_size FROM pragma_database_size()"))


def counts(db: Db, sae_id: str, d_sae: int, n_rows: int, n_ctx: int) -> list[int]:
    """Nonzeros of every feature in the first `n_rows` windows that are full: the text that delphi has."""
    found = rows(
        db,
        """
        SELECT feature, count(*) FROM activations JOIN saes USING (sae_key)
        WHERE sae_id = ? AND token // ? IN (
            SELECT window_id FROM windows WHERE len(token_ids) = ? ORDER BY window_id LIMIT ?)
        GROUP BY feature
        """,
        [sae_id, n_ctx, n_ctx, n_rows],
    )
    by_feature = dict(found)
    return [int(by_feature.get(feature, 0)) for feature in range(d_sae)]


def read_times(db: Db, sae_id: str, features: list[int]) -> dict[str, float]:
    """Milliseconds to one feature's top windows, with their tokens and activations, by the store's own readers."""
    milliseconds: list[float] = []
    for index in features:
        start = time.perf_counter()
        f = find_feature(db, FeatureId(sae_id, index))
        top = rows(
            db,
            """
            SELECT window_id, max(value) FROM activations WHERE sae_key = ? AND feature = ?
            GROUP BY 1 ORDER BY 2 DESC LIMIT ?
            """,
            [f.sae_key, index, N_WINDOWS],
        )
        fetch_windows(db, f, [int(r[0]) for r in top])
        milliseconds.append(1000 * (time.perf_counter() - start))
    return {"median": median(milliseconds), "p95": float(np.quantile(milliseconds, 0.95))}


def peak_bytes() -> int:
    """Most resident memory of this process so far."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


if __name__ == "__main__":
    main()

"""Does the wire format hold with a real server, and can so small a model answer several explanations at once?

Asks a model behind an OpenAI-compatible endpoint about a few explanations of a store: pooled, one at a time, and by
intruder detection, and counts which answers could be used. No test: a small model understands nothing, and is slow.

    transformers serve FOLDER_OF_SMOLLM2 --port 18923 --device cpu    (from transformers[serving], in its own venv)
    python -m tests.benchmarks.bench_served STORE --base-url http://127.0.0.1:18923/v1 --model FOLDER_OF_SMOLLM2

Works on a copy of the store. Prints JSON: by way of asking, calls by how they ended, and tokens as the server billed.
"""

import argparse
import asyncio
import json
import shutil
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safesail.autointerp.config import AutointerpConfig
from safesail.autointerp.exemplars import collect
from safesail.autointerp.intruder import IntruderTest
from safesail.autointerp.pool_scorer import PoolScorer
from safesail.autointerp.simulator import score_feature
from safesail.domain.ids import FeatureId
from safesail.domain.records import Explanation
from safesail.llm.budget import parse_budget
from safesail.llm.metered import MeteredClient
from safesail.llm.openai_client import OpenAIClient
from safesail.store.calls import CallTable
from safesail.store.connection import Db, open_writer
from safesail.store.explanations import explained_features, read_explanation
from safesail.store.registry import start_run
from safesail.store.selection import best_sae
from safesail.store.sql import rows

PATIENCE = 900.0
"""Seconds that a call may take on a busy machine."""


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("store", type=Path)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--features", type=int, default=6)
    parser.add_argument("--pool", type=int, default=3)
    asked = parser.parse_args()
    started = time.perf_counter()
    with TemporaryDirectory() as folder:
        copy = Path(shutil.copy(asked.store, Path(folder) / "store.duckdb"))
        with open_writer(copy) as db:
            result = _ask(db, asked)
    result["seconds"] = round(time.perf_counter() - started)
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


def _ask(db: Db, asked: argparse.Namespace) -> dict[str, Any]:
    config = AutointerpConfig.model_validate(
        {
            "scoring": {
                "model": asked.model, "draws": 50,
                "pool": {"features": asked.pool, "min_rounds": 1, "max_rounds": 1, "most": 3},
            },
            "test_exemplars": {"n_active": 4, "n_random": 2, "n_hard": 2},
            "intruder": {"n_trials": 2, "trials_per_call": 4},
            "concurrency": 1,
        }
    )  # fmt: skip
    model = OpenAIClient(asked.base_url, "none", asked.model, timeout=PATIENCE)
    sae_id = best_sae(db)
    features = [FeatureId(sae_id, j) for j in explained_features(db, sae_id)[: asked.features]]
    explanations = [read_explanation(db, feature) for feature in features]
    result: dict[str, Any] = {"features": len(features)}
    for way in ("pooled", "segment", "intruder"):
        run_id = start_run(db, "score", {})
        client = MeteredClient(model, CallTable(db, run_id), parse_budget("unlimited"), concurrency=1)
        asyncio.run(_one_way(db, way, client, config, explanations))
        result[way] = _counted(db, run_id)
        sys.stderr.write(json.dumps({way: result[way]}) + "\n")
    return result


async def _one_way(
    db: Db, way: str, client: MeteredClient, config: AutointerpConfig, explanations: list[Explanation]
) -> None:
    sae_id = explanations[0].feature.sae_id
    if way == "pooled":
        await PoolScorer(db, client, config, sae_id, None).score(explanations, 1)
    elif way == "intruder":
        await IntruderTest(db, client, config, sae_id, None).test(
            [e.feature for e in explanations], decide=False
        )
    else:
        scoring = config.scoring.model_copy(update={"method": "segment"})
        for explanation in explanations:
            windows = collect(db, explanation.feature, "test", config.test_exemplars)
            await score_feature(client, explanation, windows, scoring, other=None)


def _counted(db: Db, run_id: str) -> dict[str, Any]:
    """Calls by how they ended, and what the server billed."""
    ended = rows(
        db,
        "SELECT coalesce(error, 'usable'), count(*), sum(input_tokens), sum(output_tokens),"
        " count(*) FILTER (usage_source = 'billed') FROM llm_calls WHERE run_id = ? GROUP BY 1 ORDER BY 1",
        [run_id],
    )
    answers = rows(db, "SELECT answer FROM llm_calls WHERE run_id = ? ORDER BY call_id LIMIT 2", [run_id])
    return {
        "calls": {str(r[0]): int(r[1]) for r in ended},
        "tokens_in": sum(int(r[2]) for r in ended),
        "tokens_out": sum(int(r[3]) for r in ended),
        "billed_by_the_server": sum(int(r[4]) for r in ended),
        "first_answers": [str(r[0])[:160] for r in answers],
    }


if __name__ == "__main__":
    main()

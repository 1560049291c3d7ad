"""Does an audit tell good labels from bad ones? Four qualities of explanations, of the same features, on a real store.

right: what the store's own run says; token: "the word X" of the top token; shuffled: right ones of other features;
empty. They are written to a file, imported as somebody's catalog, scored on the store's own harvest, and audited.

    python -m tests.benchmarks.bench_audit --store runs/demo/safesail.duckdb --features 40
"""

import argparse
import json
import random
import shutil
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safesail.autointerp.clients import ChatSettings
from safesail.autointerp.config import AutointerpConfig
from safesail.autointerp.ranking import FeatureChoice
from safesail.autointerp.run import score_store
from safesail.catalog.audit import audit, plot_audit
from safesail.catalog.config import ColumnMap, ImportOptions
from safesail.catalog.importing import import_catalog
from safesail.llm.budget import parse_budget
from safesail.store.connection import open_reader, open_writer
from safesail.store.explanations import Authors
from safesail.store.sql import one, rows

QUALITIES = ("right", "token", "shuffled", "empty")
ORIGIN = "qualities"


def write_qualities(store: Path, out: Path, n: int, seed: int) -> tuple[str, str]:
    """The four qualities as a file; returns SAE and model."""
    with open_writer(store) as db:  # a store of an earlier version is brought up to date
        found = one(
            db, "SELECT sae_id, count(*) FROM explanations WHERE text IS NOT NULL GROUP BY 1 ORDER BY 2 DESC"
        )
        assert found is not None, "the store has no explanation"
        sae = str(found[0])
        model = str(rows(db, "SELECT model_id FROM saes WHERE sae_id = ?", [sae])[0][0])
        chosen = rows(
            db,
            "SELECT DISTINCT ON (e.ordinal) e.feature, e.text, f.top_tokens[1] FROM explanations e"
            " JOIN features f USING (sae_id, feature) WHERE sae_id = ? AND e.text IS NOT NULL"
            " AND e.explanation_id IN (SELECT explanation_id FROM shown_explanations) ORDER BY e.ordinal LIMIT ?",
            [sae, n],
        )
    order = list(range(len(chosen)))
    random.Random(seed).shuffle(order)
    others = [order[(order.index(i) + 1) % len(order)] for i in range(len(order))]  # nobody gets his own
    with out.open("w", encoding="utf-8") as stream:
        for place, (feature, text, token) in enumerate(chosen):
            texts = {"right": text, "token": f'The word "{str(token).strip()}".', "shuffled": chosen[others[place]][1],
                     "empty": ""}  # fmt: skip
            for quality in QUALITIES:
                stream.write(json.dumps({"index": feature, "text": texts[quality], "by": quality}) + "\n")
    return sae, model


def run(store: Path, n: int, simulator: str, seed: int, plot: Path | None) -> dict[str, Any]:
    """Import, score and audit; the store is copied first."""
    with tempfile.TemporaryDirectory() as scratch:
        copy, file = Path(scratch) / "s.duckdb", Path(scratch) / "qualities.jsonl"
        shutil.copyfile(store, copy)
        sae, model = write_qualities(copy, file, n, seed)
        options = ImportOptions(
            name=ORIGIN, model=model, sae=sae, columns=ColumnMap(text="text", index="index", explainer="by")
        )
        import_catalog(copy, file, options)
        config = AutointerpConfig.read({"chance_every": 1}, "bench")
        seconds: dict[str, float] = {}
        for quality in QUALITIES[:-1]:
            began = time.process_time()
            choice = FeatureChoice(sae, n, authors=Authors(ORIGIN, quality))
            score_store(
                copy, choice, ChatSettings("lexical", simulator, parse_budget("10M")), config, quiet=True
            )
            seconds[quality] = round(time.process_time() - began, 1)
        with open_reader(copy) as db:
            report = audit(db, sae)
        if plot is not None:
            plot_audit(report, plot)
    found = {a.explainer: asdict(a) for a in report.authors if a.origin == ORIGIN}
    return {"simulator": simulator, "sae": sae, "features": n, "cpu_seconds": seconds, "authors": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--features", type=int, default=40)
    parser.add_argument("--simulator", default="lexical")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    found = run(asked.store, asked.features, asked.simulator, asked.seed, asked.plot)
    print(json.dumps(found, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()

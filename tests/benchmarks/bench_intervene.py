"""What features do: are planted effects found, is it exact, and what does it cost?

python -m tests.benchmarks.bench_intervene planted
python -m tests.benchmarks.bench_intervene exact
python -m tests.benchmarks.bench_intervene attribution
python -m tests.benchmarks.bench_intervene cost
python -m tests.benchmarks.bench_intervene suite --store STORE --sae SAE [--n 100]
python -m tests.benchmarks.bench_intervene table --store STORE...
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safesail.domain.ids import FeatureId
from safesail.intervene.config import InterveneConfig
from safesail.intervene.feature import FeatureTask, Neutral, clean_pass, measure_feature
from safesail.intervene.run import run_interventions
from safesail.metrics.correlation import spearman
from safesail.resources import resource_dir
from safesail.sae.attribution import attribute, token_target
from safesail.sae.edit import ablate, edit_features, feature_directions, scale
from safesail.sae.load import load_with_saes
from safesail.sae.protocol import SAE
from safesail.store.connection import open_reader, open_writer
from safesail.store.effects import Span
from safesail.store.sql import Db, rows
from safesail.subject.head import last_hook
from safesail.subject.loading import ModelConfig
from safesail.subject.protocol import Intervention, Subject
from tests.planted_effects import make_world, measured

SMALL = InterveneConfig(n_texts=6, n_neutral=6, edited=3, n_null_features=8, n_random=2)
"""What three times 100 features can be measured by on two busy cores."""

SUITE = ("smollm2-l6-mlp-k32", "smollm2-l14-mlp-k16", "smollm2-l22-mlp-k32")


def planted(n_null: int = 1000, n_planted: int = 40) -> dict[str, Any]:
    """Effects that were planted in a model's head, among features that do nothing."""
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder, open_writer(Path(folder) / "store.duckdb") as db:
        world = make_world(
            Path(folder),
            n_features=n_null + n_planted,
            n_planted=n_planted,
            d_model=256,
            vocabulary=5000,
            strength=0.3,
        )
        q = measured(world, sorted(world.sizes), db)
    told: dict[str, Any] = {
        "features": len(world.sizes),
        "planted": n_planted,
        "cpu_s": time.process_time() - started,
    }
    for condition in ("ablate", "double", "steer"):
        shown = {j for (j, c), value in q.items() if c == condition and value <= 0.1}
        false = len([j for j in shown if j >= n_planted])
        told[condition] = {
            "found": len(shown) - false, "false": false, "false_discoveries": false / max(1, len(shown)),
        }  # fmt: skip
    return told


def load(*names: str) -> tuple[Subject, list[SAE]]:
    torch.set_num_threads(1)
    return load_with_saes(
        ModelConfig("smollm2", "cpu"), [str(resource_dir("data") / "saes" / n) for n in names]
    )


def texts(subject: Subject, n: int, n_tokens: int) -> list[list[int]]:
    """Beginnings of the bundled texts."""
    lines = (resource_dir("data") / "texts" / "safety.jsonl").read_text().splitlines()
    ids = [subject.tokenize(json.loads(line)["text"]) for line in lines]
    return [row[:n_tokens] for row in ids if len(row) >= n_tokens][:n]


def exact() -> dict[str, Any]:
    """Largest differences: an identity edit, and running on against the whole pass."""
    subject, saes = load(*SUITE)
    ids = torch.tensor(texts(subject, 4, 30))
    told: dict[str, Any] = {}
    for sae in saes:
        hook, last = sae.info.hook, last_hook(subject)
        identity = edit_features(sae, dict.fromkeys(range(0, sae.info.d_sae, 7), scale(1.0)))
        off = edit_features(sae, dict.fromkeys(range(0, sae.info.d_sae, 7), ablate), at=lambda p: p >= 24)

        def final(edits: Sequence[Intervention], last: str = last) -> torch.Tensor:
            return subject.run(ids, capture=[last], interventions=edits).activations[last]

        clean, whole = final([]), final([off])
        block = int(hook.split(".")[1]) - 1
        on = {}
        for name, prefix in (("resumed", 0), ("resumed_after_prefix", 24)):
            state = subject.run(ids, keep_block=block, keep_prefix=prefix).state
            assert state is not None
            again = subject.resume(state, capture=[last], interventions=[off]).activations[last]
            on[name] = float((again - whole[:, prefix:]).abs().max())
        told[sae.info.sae_id] = {
            "identity": float((final([identity]) - clean).abs().max()), "acts": float((whole - clean).abs().max()),
            **on,
        }  # fmt: skip
    return told


def attribution(n_texts: int = 10, per_text: int = 20) -> dict[str, Any]:
    """Gradient x activation against exact ablation, features of three SAEs drawn at random among the active."""
    subject, saes = load(*SUITE)
    by_id = {sae.info.sae_id: sae for sae in saes}
    rng = np.random.default_rng(0)
    pairs: list[tuple[str, float, float]] = []
    for row in texts(subject, n_texts, 25):
        ids, target = row[:-1], token_target(row[-1])
        given = attribute(subject, saes, ids, target)
        estimates = [(s, j, a) for s, of in given.items() for j, a in of.by_feature().items()]

        def value(
            edits: Sequence[Intervention], ids: list[int] = ids, target: Callable[..., Any] = target
        ) -> float:
            logits = subject.run(torch.tensor([ids]), logits=True, interventions=edits).logits
            return float(target({}, logits))

        base = value([])
        for i in rng.permutation(len(estimates))[:per_text]:
            sae_id, j, estimate = estimates[i]
            pairs.append((sae_id, -estimate, value([edit_features(by_id[sae_id], {j: ablate})]) - base))
    told: dict[str, Any] = {"pairs": len(pairs), "spearman": _spearman([p[1:] for p in pairs])}
    return told | {s: _spearman([p[1:] for p in pairs if p[0] == s]) for s in by_id}


def _spearman(pairs: Sequence[Sequence[float]]) -> Any:
    table = np.array(pairs, dtype=float)
    return spearman(table[:, 0], table[:, 1])


def cost(n_features: int = 2, repeats: int = 1) -> dict[str, Any]:
    """CPU seconds per feature and condition, against a full forward for each intervention, in one run."""
    subject, saes = load(*SUITE)
    config = SMALL
    rows_of = texts(subject, 12, config.context + config.edited + 1)
    spans = [Span(str(i), tuple(ids)) for i, ids in enumerate(rows_of)]
    n_directions, told = 1 + config.n_null_features + config.n_random, dict[str, Any]()
    for sae in saes:
        neutral = Neutral.run(subject, sae.info.hook, spans[6:], config)
        firing = clean_pass(subject, sae.info.hook, spans[:6], config)
        features = torch.unique(sae.encode(firing.x[:, 0]).feature)[:n_features].tolist()
        ours, naive = [], []
        for j in features * repeats:
            unit = torch.nn.functional.normalize(torch.randn(n_directions - 1, sae.info.d_in), dim=1)
            directions = torch.cat([feature_directions(sae, [j]), unit])
            task = FeatureTask(
                j, 5.0, spans[:6], {"lens": list(range(20))}, directions, config.n_null_features
            )
            given = config.model_copy(update={"strength": 4.0})
            started = time.process_time()
            measure_feature(subject, sae, task, neutral, given)
            ours.append((time.process_time() - started) / 4)
            ids = torch.tensor([span.token_ids[:-1] for span in spans[:6]])
            started = time.process_time()
            for direction in directions:
                edit = Intervention(
                    sae.info.hook, lambda x, p, d=direction: x + (p >= config.context)[..., None] * d
                )
                logits = subject.run(ids, logits=True, interventions=[edit]).logits
                assert logits is not None
                torch.log_softmax(logits[:, -config.edited :].double(), dim=-1)
            naive.append(time.process_time() - started)
        told[sae.info.sae_id] = {
            "cpu_s_per_condition": float(np.median(ours)), "naive_cpu_s_per_condition": float(np.median(naive)),
            "ratio": float(np.median(np.array(naive) / np.array(ours))), "runs": len(ours),
        }  # fmt: skip
    return {"directions": n_directions, "texts": 6, "tokens_per_text": config.context + config.edited, **told}


def suite(store: Path, name: str, n: int) -> dict[str, Any]:
    """Measure features of an SAE that are explained, of a store with a harvest."""
    subject, saes = load(name)
    started = time.process_time()
    with open_writer(store) as db:
        explained = rows(db, "SELECT DISTINCT feature FROM explanations WHERE sae_id = ? ORDER BY 1", [name])
        features = [FeatureId(name, int(j)) for (j,) in explained][:n]
        report = run_interventions(db, subject, saes, features, SMALL, quiet=False)
    return {"sae": name, "features": len(features), "new": report.new, "cpu_s": time.process_time() - started}


def table(stores: Sequence[Path]) -> list[dict[str, Any]]:
    """What the stores hold, per SAE: features with an effect, medians, costs, input and output scores."""
    told: list[dict[str, Any]] = []
    for store in stores:
        with open_reader(store) as db:
            for (sae_id,) in rows(db, "SELECT DISTINCT sae_id FROM effects ORDER BY 1"):
                told.append({"sae": sae_id, **_table(db, sae_id)})
    return told


def _table(db: Db, sae_id: str) -> dict[str, Any]:
    own = "FROM effects JOIN headline_effects USING (sae_id, settings_hash) WHERE sae_id = ?"
    effects = rows(
        db,
        "SELECT condition, texts, measure, count(value), count(*) FILTER (q <= 0.1 AND gain_low > 0), median(value),"
        f" median(null_value), median(random_value) {own} AND measure <> 'risen' GROUP BY 1, 2, 3 ORDER BY 3, 1, 2",
        [sae_id],
    )
    verdicts = dict(
        rows(db, "SELECT effect, count(*) FROM feature_effects WHERE sae_id = ? GROUP BY 1", [sae_id])
    )
    (costs,) = rows(
        db,
        f"SELECT count(DISTINCT feature), median(strength), median(cost) {own} AND measure = 'risen'",
        [sae_id],
    )
    scores = rows(
        db,
        "SELECT h.value, e.value, e.null_value, e.p, e.q FROM effects e JOIN headline_effects USING (sae_id,"
        " settings_hash) JOIN headline_scores h USING (sae_id, feature) WHERE e.sae_id = ? AND h.value IS NOT NULL"
        " AND e.measure = 'output_score' AND e.value IS NOT NULL ORDER BY e.feature",
        [sae_id],
    )
    told: dict[str, Any] = {
        "measured": costs[0], "strength": costs[1], "cost": costs[2], "verdicts": verdicts,
        "effects": [
            dict(zip(("condition", "texts", "measure", "n", "shown", "own", "others", "random"), row, strict=True))
            for row in effects
        ],
    }  # fmt: skip
    if len(scores) > 5:
        s = np.array(scores, dtype=float)
        told["output"] = {
            "n": len(s), "mean": s[:, 1].mean(), "chance": s[:, 2].mean(), "p_at_most_.05": (s[:, 3] <= 0.05).mean(),
            "q_at_most_.1": (s[:, 4] <= 0.1).mean(), "spearman_with_input_score": spearman(s[:, 0], s[:, 1]),
        }  # fmt: skip
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["planted", "exact", "attribution", "cost", "suite", "table"])
    parser.add_argument("--store", nargs="+", type=Path, default=[])
    parser.add_argument("--sae")
    parser.add_argument("--n", type=int, default=100)
    given = parser.parse_args()
    simple: dict[str, Callable[[], Any]] = {
        "planted": planted, "exact": exact, "attribution": attribution, "cost": cost,
        "suite": lambda: suite(given.store[0], given.sae, given.n), "table": lambda: table(given.store),
    }  # fmt: skip
    print(json.dumps(simple[given.what](), indent=2, default=str))  # noqa: T201


if __name__ == "__main__":
    main()

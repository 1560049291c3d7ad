"""Our harvest against delphi's `LatentCache`: same model, SAEs and windows, one run, each in its own process.

    python tests/benchmarks/bench_harvest_delphi.py [--delphi-python ENV/bin/python] [--part speed|overhead|memory] ...

delphi's environment is made once from `tests/benchmarks/delphi_env/requirements.txt`, which says how; name its
python here or in DELPHI_PYTHON. Without it the result is `{"skipped": ...}`. About 8 minutes on two cores.

Speed: whole runs without the loading of model and SAEs, ours and delphi's in turns, by layer. Ours reads and
tokenises the text, which delphi is given as ids; both write what can be read back. delphi has the model's rows
with the BOS in front, as ours runs them, and its own defaults: 32 rows a batch, 5 splits, the whole model.

Overhead: the same at a size where the model costs little and an SAE is wide, so that all that goes on around
the model is seen: four layers of 128 numbers and 4,096 features, with weights drawn at random (their values cost
nothing), at the last layer.

Memory, disk, reading: on the model's first layer alone, so that many tokens fit into the time; an SAE gives
its 32 nonzeros a token there as well.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
N_CTX = 128
DOCUMENT_CHARACTERS = 16_000
"""About 4,000 tokens: the windows that are not full, which delphi is not given, hold few of them."""

TEXTS = ("wikitext2", "us_presidential_speeches", "masc", "gutenberg_sherlock", "muc4_terror_news")
LAYERS = (6, 14, 22)

SMALL = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
         "num_key_value_heads": 4, "head_dim": 32}  # fmt: skip
WIDE, WIDE_K = 4_096, 32

Result = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What the measurements of one run share."""

    python: str
    scratch: Path
    text: Path
    rows: Path
    threads: int

    def delphi(
        self, name: str, model: Path, saes: dict[int, Path], n_tokens: int, features: list[int]
    ) -> Result:
        """One run of delphi over the first `n_tokens` tokens."""
        coders = {
            f"layers.{layer}.mlp": str(as_sparsify(path, self.scratch / f"coder-{path.name}"))
            for layer, path in saes.items()
        }
        plan = {"coders": coders, "rows": str(self.rows), "n_rows": n_tokens // N_CTX, "features": features}
        older = for_older_transformers(model, self.scratch / f"older-{model.name}")
        return self._child(self.python, "run_delphi.py", name, plan | {"model": str(older)})

    def ours(self, name: str, model: Path, saes: dict[int, Path], n_tokens: int, **more: Any) -> Result:
        """One harvest of the documents up to the one that reaches `n_tokens` tokens."""
        plan = {"saes": [str(p) for p in saes.values()], "text": str(self.text), "n_tokens": n_tokens,
                "n_ctx": N_CTX, "precision": "f32", "n_rows": 0, "features": []}  # fmt: skip
        return self._child(sys.executable, "run_safesail.py", name, plan | more | {"model": str(model)})

    def _child(self, python: str, script: str, name: str, plan: dict[str, Any]) -> Result:
        out = self.scratch / name
        path = self.scratch / f"{name}.json"
        path.write_text(json.dumps(plan | {"out": str(out), "threads": self.threads}))
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads), "HF_HUB_OFFLINE": "1"}
        if python == sys.executable:
            environment["PYTHONPATH"] = str(ROOT)
        done = subprocess.run(
            [python, str(HERE / "delphi_env" / script), str(path)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise SystemExit(f"{script} ended with {done.returncode}: {done.stderr[-2000:]}")
        result: Result = json.loads(done.stdout.splitlines()[-1])
        said = {key: value for key, value in result.items() if key != "counts"}
        sys.stderr.write(f"{name}: {json.dumps(said)}\n")
        return result


def main() -> None:
    """Measure and print."""
    options = parse()
    result = skipped(options) or measure(options)
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--delphi-python", default=os.environ.get("DELPHI_PYTHON"))
    parser.add_argument(
        "--texts", type=Path, default=ROOT.parent / "shared" / "data", help="Folder of corpora."
    )
    parser.add_argument("--part", choices=["all", "speed", "overhead", "memory"], default="all")
    parser.add_argument("--tokens", type=int, default=16_000, help="Of each run of speed.")
    parser.add_argument("--overhead-tokens", type=int, default=196_608)
    parser.add_argument("--turns", type=int, default=2, help="Runs of each side and layer.")
    parser.add_argument("--memory-tokens", type=int, nargs="+", default=[50_000, 200_000])
    parser.add_argument(
        "--ours-alone", type=int, nargs="*", default=[800_000], help="Sizes too long for delphi."
    )
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def skipped(options: argparse.Namespace) -> Result | None:
    """Why nothing is measured, or None."""
    if not options.delphi_python or not Path(options.delphi_python).is_file():
        where = HERE.relative_to(ROOT) / "delphi_env" / "requirements.txt"
        return {
            "skipped": f"no environment of delphi; {where} says how to make one, DELPHI_PYTHON names its python"
        }
    if not options.texts.is_dir():
        return {"skipped": f"no texts at {options.texts}; name a folder of corpora with --texts"}
    return None


def measure(options: argparse.Namespace) -> Result:
    """Both parts, or the one asked for."""
    from safesail.resources import cache_dir
    from safesail.subject.fetch import fetch

    model = fetch("smollm2", cache=cache_dir(), quiet=True)
    with tempfile.TemporaryDirectory(prefix="bench-delphi-") as name:
        scratch = Path(name)
        parts = ["speed", "overhead", "memory"] if options.part == "all" else [options.part]
        sizes = {"speed": [options.tokens], "overhead": [options.overhead_tokens],
                 "memory": [*options.memory_tokens, *options.ours_alone]}  # fmt: skip
        text, rows = write_texts(options.texts, model, scratch, max(n for part in parts for n in sizes[part]))
        bench = Bench(options.delphi_python, scratch, text, rows, options.threads)
        result: Result = {"threads": options.threads, "n_ctx": N_CTX}
        if "speed" in parts:
            result["speed"] = speed(bench, model, options.tokens, options.turns)
        if "overhead" in parts:
            result["overhead"] = overhead(bench, model, options.overhead_tokens, options.turns)
        if "memory" in parts:
            result |= memory(bench, model, options.memory_tokens, options.ours_alone)
    return result


def speed(bench: Bench, model: Path, n_tokens: int, turns: int) -> Result:
    """Tokens a second by layer, and with the SAEs of all three layers at once."""
    saes = {layer: ROOT / "data" / "saes" / f"smollm2-l{layer}-mlp-k32" for layer in LAYERS}
    cases = {f"layer {layer}": {layer: path} for layer, path in saes.items()} | {"all three layers": saes}
    return {case: by_turns(bench, case, model, chosen, n_tokens, turns) for case, chosen in cases.items()}


def overhead(bench: Bench, model: Path, n_tokens: int, turns: int) -> Result:
    """Tokens a second where the model is small and the SAE wide."""
    small = small_model(model, bench.scratch / "small")
    sae = wide_sae(bench.scratch / "wide")
    return by_turns(bench, "overhead", small, {SMALL["num_hidden_layers"] - 1: sae}, n_tokens, turns)


def by_turns(
    bench: Bench, case: str, model: Path, saes: dict[int, Path], n_tokens: int, turns: int
) -> Result:
    """Delphi, then ours, and again."""
    pairs: list[tuple[Result, Result]] = []
    for turn in range(turns):
        theirs = bench.delphi(f"d-{case}-{turn}", model, saes, n_tokens, [])
        pairs.append((bench.ours(f"o-{case}-{turn}", model, saes, n_tokens, n_rows=theirs["n_rows"]), theirs))
    return compare(pairs)


def compare(pairs: list[tuple[Result, Result]]) -> Result:
    """Tokens a second of both, their ratio turn by turn, and whether both found the same nonzeros.

    The ratio of processor seconds a token says the same on a machine that others use too.
    """
    ours = [o["n_tokens"] / o["seconds"] for o, _ in pairs]
    theirs = [d["n_tokens"] / d["seconds"] for _, d in pairs]
    ratios = [o / d for o, d in zip(ours, theirs, strict=True)]
    cpu = [(d["cpu_seconds"] / d["n_tokens"]) / (o["cpu_seconds"] / o["n_tokens"]) for o, d in pairs]
    return {
        "ours_tokens_per_second": ours,
        "delphi_tokens_per_second": theirs,
        "ratio_median": median(ratios),
        "ratio_least": min(ratios),
        "cpu_ratio_median": median(cpu),
        "n_tokens": [pairs[0][0]["n_tokens"], pairs[0][1]["n_tokens"]],
        "same_text": agreement(*pairs[0]),
    }


def agreement(ours: Result, theirs: Result) -> Result:
    """Nonzeros in the windows that both ran, and the share of them by which the features' counts differ."""
    a, b = np.array(ours["counts"]), np.array(theirs["counts"])
    return {"ours": int(a.sum()), "delphi": int(b.sum()), "differ": float(abs(a - b).sum() / b.sum())}


def memory(bench: Bench, model: Path, sizes: list[int], alone: list[int]) -> Result:
    """Peak memory by number of tokens; bytes a nonzero and times to read at the largest that delphi ran."""
    cut = first_layer(model, bench.scratch / "first-layer")
    saes = {0: moved(ROOT / "data" / "saes" / "smollm2-l6-mlp-k32", bench.scratch / "moved-l0")}
    features = [int(f) for f in np.random.default_rng(0).choice(1536, 100, replace=False)]
    found: Result = {}
    runs: list[tuple[Result, Result]] = []
    for n_tokens in sizes:
        last = n_tokens == sizes[-1]
        theirs = bench.delphi(f"dm-{n_tokens}", cut, saes, n_tokens, features if last else [])
        more = {"features": features if last else [], "n_rows": theirs["n_rows"]}
        ours = bench.ours(f"om-{n_tokens}", cut, saes, n_tokens, **more)
        runs.append((ours, theirs))
        found[str(n_tokens)] = {
            "ours_peak_mb": ours["memory_peak"] / 1e6,
            "ours_before_mb": ours["memory_before"] / 1e6,
            "delphi_peak_mb": theirs["memory_peak"] / 1e6,
            "delphi_before_mb": theirs["memory_before"] / 1e6,
        }
    u8 = bench.ours("om-u8", cut, saes, sizes[-1], precision="u8", features=features)
    peaks = [o["memory_peak"] for o, _ in runs]
    for n_tokens in alone:
        run = bench.ours(f"om-{n_tokens}", cut, saes, n_tokens, features=features)
        peaks.append(run["memory_peak"])
        found[str(n_tokens)] = {"ours_peak_mb": run["memory_peak"] / 1e6, "ours_read_ms": run["read_ms"],
                                "ours_f32_bytes_per_nonzero": ours_bytes(run)}  # fmt: skip
    ours, theirs = runs[-1]
    return {
        "same_text": agreement(*runs[0]),
        "memory": found | {"ours_largest_to_smallest": max(peaks) / min(peaks)},
        "bytes_per_nonzero": {"ours_f32": ours_bytes(ours), "ours_u8": ours_bytes(u8), "delphi": {
            "files": theirs["file_bytes"] / theirs["nonzeros"],
            "without_tokens": (theirs["file_bytes"] - theirs["token_bytes"]) / theirs["nonzeros"],
        }},
        "top_windows_ms": {"ours_f32": ours["read_ms"], "ours_u8": u8["read_ms"], "delphi_least": theirs["read_ms"],
                           "delphi_pipeline": theirs["read_with_examples_ms"]},
    }  # fmt: skip


def ours_bytes(run: Result) -> Result:
    """Of the activations' table, and of the whole file with its text, windows and histograms."""
    return {
        "table": run["table_bytes"] / run["nonzeros"],
        "whole_file": run["file_bytes"] / run["nonzeros"],
        "nonzeros": run["nonzeros"],
    }


def write_texts(folder: Path, model: Path, scratch: Path, n_tokens: int) -> tuple[Path, Path]:
    """Documents of long text for ours; of the same, every full window with BOS for delphi."""
    from transformers import AutoTokenizer

    from safesail.text.documents import read_documents
    from safesail.text.windows import cut

    tokenizer = AutoTokenizer.from_pretrained(model)
    joined = "\n".join(
        d.text for d in read_documents([str(folder / t) for t in TEXTS if (folder / t).is_dir()])
    )
    text, rows = scratch / "texts.jsonl", []
    n_written = 0
    with text.open("w", encoding="utf-8") as file:
        for first in range(0, len(joined), DOCUMENT_CHARACTERS):
            document = joined[first : first + DOCUMENT_CHARACTERS]
            file.write(json.dumps({"text": document}) + "\n")
            ids = tokenizer.encode(document, add_special_tokens=False, verbose=False)
            rows += [[tokenizer.bos_token_id, *w] for _, w in cut(ids, N_CTX) if len(w) == N_CTX]
            n_written += len(ids)
            if n_written > n_tokens + DOCUMENT_CHARACTERS:
                break
    if n_written < n_tokens:
        raise SystemExit(
            f"{folder} holds {n_written} tokens of the {n_tokens} asked for; use fewer, or more texts"
        )
    np.save(scratch / "rows.npy", np.array(rows, dtype=np.int64))
    return text, scratch / "rows.npy"


def as_sparsify(sae: Path, out: Path) -> Path:
    """A TopK SAE of ours in the format of delphi's own library."""
    from safetensors.torch import load_file, save_file

    if out.is_dir():
        return out
    out.mkdir()
    config = json.loads((sae / "cfg.json").read_text())
    weights = {name: w.float() for name, w in load_file(sae / "sae_weights.safetensors").items()}
    stored = {"encoder.weight": weights["W_enc"].T.contiguous(), "encoder.bias": weights["b_enc"],
              "W_dec": weights["W_dec"].contiguous(), "b_dec": weights["b_dec"]}  # fmt: skip
    save_file(stored, out / "sae.safetensors")
    settings = {"activation": "topk", "num_latents": config["d_sae"], "k": config["k"], "d_in": config["d_in"],
                "normalize_decoder": False}  # fmt: skip
    (out / "cfg.json").write_text(json.dumps(settings))
    return out


def for_older_transformers(model: Path, out: Path) -> Path:
    """The same model where transformers 4 finds its rotary base: without it, it silently takes another."""
    if out.is_dir():
        return out
    out.mkdir()
    for file in model.iterdir():
        if file.name != "config.json":
            (out / file.name).symlink_to(file.resolve())
    config = json.loads((model / "config.json").read_text())
    rotary = config.get("rope_parameters") or {}
    (out / "config.json").write_text(json.dumps({"rope_theta": rotary.get("rope_theta", 10_000.0)} | config))
    return out


def first_layer(model: Path, out: Path) -> Path:
    """The model with all layers but the first taken away."""
    from safetensors.torch import load_file, save_file

    out.mkdir()
    for file in model.iterdir():
        if file.suffix != ".safetensors" and file.name != "config.json":
            (out / file.name).write_bytes(file.read_bytes())
    config = json.loads((model / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    weights = load_file(next(model.glob("*.safetensors")))
    kept = {n: w for n, w in weights.items() if ".layers." not in n or ".layers.0." in n}
    save_file(kept, out / "model.safetensors", {"format": "pt"})
    return out


def small_model(model: Path, out: Path) -> Path:
    """A model of `SMALL` size with the tokenizer of `model` and weights drawn at random."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(model, **SMALL)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(out)
    AutoTokenizer.from_pretrained(model).save_pretrained(out)
    return out


def wide_sae(out: Path) -> Path:
    """A TopK SAE of `WIDE` features at the last layer of the small model, its weights drawn at random."""
    import importlib.metadata

    import torch

    from safesail.sae.save import save_sae, topk_config

    d_in = SMALL["hidden_size"]
    w_dec = torch.nn.functional.normalize(
        torch.randn(WIDE, d_in, generator=torch.Generator().manual_seed(0)), dim=1
    )
    weights = {"W_enc": w_dec.T.contiguous(), "W_dec": w_dec, "b_enc": torch.zeros(WIDE),
               "b_dec": torch.zeros(d_in)}  # fmt: skip
    metadata = {
        "hook_name": f"blocks.{SMALL['num_hidden_layers'] - 1}.hook_mlp_out",
        "model_name": "small",
        "sae_lens_version": importlib.metadata.version("sae_lens"),
    }
    save_sae(out, weights, topk_config(d_in, WIDE, WIDE_K, metadata))
    return out


def moved(sae: Path, out: Path) -> Path:
    """The SAE, said to sit at the first layer."""
    out.mkdir()
    config = json.loads((sae / "cfg.json").read_text())
    config["metadata"] |= {"hook_name": "blocks.0.hook_mlp_out", "model_fingerprint": None}
    (out / "cfg.json").write_text(json.dumps(config))
    (out / "sae_weights.safetensors").write_bytes((sae / "sae_weights.safetensors").read_bytes())
    return out


if __name__ == "__main__":
    main()

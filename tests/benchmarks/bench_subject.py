"""Speed of the subject model with and without the early stop, and its distance from plain transformers.

    python tests/benchmarks/bench_subject.py [MODEL]

One JSON object on standard output: tokens a second up to each hook, and over the whole model; largest absolute
difference of the activations at the hooks, of which the largest activation gives the scale.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from safesail.resources import cache_dir
from safesail.subject.fetch import fetch
from safesail.subject.loading import ModelConfig, load_subject
from safesail.subject.protocol import Subject

LAYERS = (6, 14, 22)
BATCH, N_CTX = 16, 128


def main() -> None:
    """Measure and print."""
    name = sys.argv[1] if len(sys.argv) > 1 else "smollm2"
    path = fetch(name, cache=cache_dir(), quiet=True)
    subject = load_subject(ModelConfig(name))
    ids = torch.randint(100, 10_000, (BATCH, N_CTX), generator=torch.Generator().manual_seed(0))
    hooks = [f"blocks.{layer}.hook_mlp_out" for layer in LAYERS]
    speeds = {hook: tokens_per_second(lambda hook=hook: subject.run(ids, capture=[hook])) for hook in hooks}
    small = ids[:4]
    whole = tokens_per_second(lambda: subject.run(small, logits=True), n_tokens=small.numel())
    distance, scale = compare(subject, str(path), hooks, small)
    result: dict[str, Any] = {
        "model": name,
        "threads": torch.get_num_threads(),
        "batch": [BATCH, N_CTX],
        "tokens_per_second": {**speeds, "whole model with logits": whole},
        "max_abs_difference_from_transformers": distance,
        "largest_activation": scale,
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


def tokens_per_second(run: Callable[[], object], *, n_tokens: int = BATCH * N_CTX, repeats: int = 3) -> float:
    """Of the fastest of `repeats` runs, after one that does not count."""
    run()
    seconds: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return round(n_tokens / min(seconds), 1)


def compare(
    subject: Subject, path: str, hooks: list[str], ids: Tensor
) -> tuple[dict[str, float], dict[str, float]]:
    """Largest differences by hook, and largest activations."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    seen: dict[str, Tensor] = {}
    for layer, hook in zip(LAYERS, hooks, strict=True):

        def keep(module: object, inputs: object, output: Tensor, hook: str = hook) -> None:
            seen[hook] = output[:, 1:]

        model.model.layers[layer].mlp.register_forward_hook(keep)
    with torch.no_grad():
        model.model(torch.cat([torch.full((len(ids), 1), subject.prefix[0]), ids], dim=1))
    captured = subject.run(ids, capture=hooks).activations
    distance = {hook: (captured[hook] - seen[hook]).abs().max().item() for hook in hooks}
    return distance, {hook: seen[hook].abs().max().item() for hook in hooks}


if __name__ == "__main__":
    main()

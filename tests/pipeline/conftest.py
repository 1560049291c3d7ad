"""A whole pipeline on a tiny real model, run once."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from safesail.pipeline.run import run_pipeline
from safesail.pipeline.summary import Summary
from safesail.subject.loading import ModelConfig, load_subject
from tests.harvest.conftest import write_sae
from tests.tiny_model import write_tiny_model

WORDS = ("knife", "cake", "river", "letter", "garden", "engine", "winter", "market")


@dataclass(frozen=True)
class Made:
    """A pipeline's file, what it wrote, and how it ended."""

    file: Path
    out: Path
    summary: Summary


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("pipeline")
    model = str(write_tiny_model(folder / "tiny"))
    info = load_subject(ModelConfig(model)).info
    for layer in (0, 1):
        write_sae(folder / "saes" / f"tiny-l{layer}", f"blocks.{layer}.hook_mlp_out", info, seed=layer)
    (folder / "concepts.yaml").write_text(yaml.safe_dump(_concepts()), encoding="utf-8")
    texts = [f"{a} and the {b} near a {c}, number {i}" for i, (a, b, c) in enumerate(_triples())]
    (folder / "texts.jsonl").write_text(
        "".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8"
    )
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(_pipeline(folder, model)), encoding="utf-8")
    out = folder / "out"
    return Made(file, out, run_pipeline(file, out=out, quiet=True))


def _triples() -> list[tuple[str, str, str]]:
    return [(a, b, c) for a in WORDS for b in WORDS for c in WORDS[:2] if a != b]


def _concepts() -> dict[str, object]:
    def concept(word: str, twin: str) -> dict[str, object]:
        pairs = [
            {"lang": "en", "form": "statement", "pos": f"the {word} is {end}", "neg": f"the {twin} is {end}"}
            for end in ("here", "there", "old", "new", "red", "big")
        ]
        return {"id": f"violence.{word}", "name": word, "definition": f"A {word}.", "pairs": pairs}

    return {
        "domain": "violence", "licence": "MIT", "provenance": "made for a test",
        "concepts": [concept("knife", "spoon"), concept("market", "forest")],
    }  # fmt: skip


def _pipeline(folder: Path, model: str) -> dict[str, object]:
    return {
        "name": "small",
        "model": model,
        "saes": [str(folder / "saes" / "*")],
        "concepts": [str(folder / "concepts.yaml")],
        "texts": [str(folder / "texts.jsonl")],
        "budget": "1M",
        "max_features": 4,
        "min_windows": 2,
        "selection": {"candidate_threshold": 0.15, "min_lift": 0.1, "keep_floor": 0.1},
        "harvest": {"n_ctx": 32},
        "release": {"name": "small", "licence": "MIT"},
    }

"""A tiny real subject model, two real SAEs on it, and texts."""

import importlib.metadata
import json
from pathlib import Path

import pytest
import torch

from safesail.domain.records import SubjectInfo
from safesail.sae.load import open_sae
from safesail.sae.protocol import SAE
from safesail.sae.save import save_sae, topk_config
from safesail.subject.loading import ModelConfig, load_subject
from safesail.subject.protocol import Subject
from tests.tiny_model import D_MODEL, write_tiny_model

D_SAE, K = 40, 4
TEXTS = [
    "the heron waits by the water",
    "he said that the heat had gone",
    "Überraschung: 熊 🐻 und Wärme",
    "short",
    "a longer text about the weather, the sea and the wind, which goes on past one window of tokens",
    "another one: numbers 1 2 3 4 5 6 7 8 9 10 11 12 13 14",
    "she sells shells; he hears her here",
    "questions? answers! commas, and more commas, and the end.",
    "tomorrow the committee meets in the old hall by the harbour",
    "yesterday nothing happened, and nobody wrote it down",
]


@pytest.fixture(scope="session")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return load_subject(ModelConfig(str(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny"))))


@pytest.fixture(scope="session")
def saes(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> list[SAE]:
    folder = tmp_path_factory.mktemp("saes")
    return [
        write_sae(folder / f"tiny-l{layer}", f"blocks.{layer}.hook_mlp_out", subject.info, seed=layer)
        for layer in (0, 2)
    ]


def write_sae(path: Path, hook: str, info: SubjectInfo, seed: int) -> SAE:
    generator = torch.Generator().manual_seed(seed)
    w_dec = torch.nn.functional.normalize(torch.randn(D_SAE, D_MODEL, generator=generator), dim=1)
    version = importlib.metadata.version("sae_lens")
    config = topk_config(
        D_MODEL, D_SAE, K, {"hook_name": hook, "model_name": "tiny", "sae_lens_version": version}
    )
    weights = {
        "W_enc": w_dec.T.contiguous(), "W_dec": w_dec, "b_enc": torch.zeros(D_SAE), "b_dec": torch.zeros(D_MODEL)
    }  # fmt: skip
    save_sae(path, weights, config)
    return open_sae(str(path), model=info)


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    return write_texts(tmp_path / "texts.jsonl", TEXTS)


def write_texts(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path

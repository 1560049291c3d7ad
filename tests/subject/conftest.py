"""Tiny subject models of several families, loaded once for all tests of this folder."""

from pathlib import Path

import pytest

from safesail.subject.causal import CausalModel
from safesail.subject.encoder import TextEncoder
from safesail.subject.loading import ModelConfig, load_subject
from safesail.subject.minilm import is_installed
from safesail.subject.protocol import Subject
from tests.tiny_model import write_tiny_encoder, write_tiny_gpt2, write_tiny_model

CAUSAL, ENCODERS = ("llama", "gpt2"), ("bert", "minilm")


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the tiny Llama."""
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def encoder_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the tiny BERT."""
    return write_tiny_encoder(tmp_path_factory.mktemp("model") / "bert")


@pytest.fixture(scope="session")
def tiny(tiny_dir: Path) -> CausalModel:
    """The tiny Llama, loaded."""
    model = load_subject(ModelConfig(str(tiny_dir), device="cpu"))
    assert isinstance(model, CausalModel)
    return model


@pytest.fixture(scope="session")
def subjects(
    tiny: CausalModel, encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Subject]:
    """Every model that the protocol's tests go through, by name."""
    gpt2 = write_tiny_gpt2(tmp_path_factory.mktemp("model") / "gpt2")
    loaded: dict[str, Subject] = {
        "llama": tiny,
        "gpt2": load_subject(ModelConfig(str(gpt2), device="cpu")),
        "bert": load_subject(ModelConfig(str(encoder_dir), device="cpu")),
    }
    if is_installed():
        loaded["minilm"] = load_subject(ModelConfig("minilm", device="cpu"))
    return loaded


def _named(subjects: dict[str, Subject], name: str) -> Subject:
    if name not in subjects:
        pytest.skip("needs the extra `embedding`")
    return subjects[name]


@pytest.fixture(params=[*CAUSAL, *ENCODERS])
def subject(request: pytest.FixtureRequest, subjects: dict[str, Subject]) -> Subject:
    """Each model in turn."""
    return _named(subjects, request.param)


@pytest.fixture(params=CAUSAL)
def causal(request: pytest.FixtureRequest, subjects: dict[str, Subject]) -> Subject:
    """Each causal language model in turn."""
    return _named(subjects, request.param)


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest, subjects: dict[str, Subject]) -> TextEncoder:
    """Each text encoder in turn."""
    model = _named(subjects, request.param)
    assert isinstance(model, TextEncoder)
    return model

"""One tiny subject model for all tests of this folder."""

from pathlib import Path

import pytest

from safesail.subject.loading import ModelConfig, load_subject
from safesail.subject.protocol import Subject
from tests.tiny_model import write_tiny_model


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the tiny model."""
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_dir: Path) -> Subject:
    """The tiny model, loaded."""
    return load_subject(ModelConfig(str(tiny_dir)))

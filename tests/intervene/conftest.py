"""A store with everything that a measurement needs, of a tiny real model."""

import shutil
from pathlib import Path

import pytest

from safesail.intervene.config import InterveneConfig
from safesail.sae.load import load_with_saes
from safesail.sae.protocol import SAE
from safesail.subject.loading import ModelConfig
from safesail.subject.protocol import Subject
from tests.pipeline.conftest import Made
from tests.pipeline.conftest import made as made

CONFIG = InterveneConfig(
    n_texts=5, n_neutral=5, context=6, edited=2, n_null_features=4, n_random=2, set_size=8, draws=50
)


@pytest.fixture
def store(made: Made, tmp_path: Path) -> Path:
    """A copy that may be written to."""
    path = tmp_path / "store.duckdb"
    shutil.copy(made.out / "safesail.duckdb", path)
    return path


@pytest.fixture(scope="session")
def loaded(made: Made) -> tuple[Subject, list[SAE]]:
    """The model, and the SAE that was explained."""
    folder = made.file.parent
    return load_with_saes(
        ModelConfig(str(folder / "tiny"), "cpu"), [str(folder / "saes" / str(made.summary.sae_id))]
    )

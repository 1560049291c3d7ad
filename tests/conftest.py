"""What tests share: real material, found or fetched, never imitated."""

import os
from collections.abc import Generator
from pathlib import Path

# Before torch is imported: OpenMP's busy-wait slows tests tenfold on a shared machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
from hypothesis import settings

from safesail.store.connection import Db, open_writer

ROOT = Path(__file__).resolve().parents[1]

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Real texts, catalogs and a tiny model beside the checkout; see the marker `shared`."""
    shared = Path(os.environ.get("SAFESAIL_SHARED", ROOT.parent / "shared"))
    if shared.is_dir():
        return shared
    message = f"needs the shared material, which is not at {shared}; name its folder in SAFESAIL_SHARED"
    if os.environ.get("SAFESAIL_REQUIRE_SHARED"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def smollm2_dir() -> Path:
    """The default subject model, fetched on first use; see the marker `model`."""
    from safesail.resources import cache_dir
    from safesail.subject.fetch import fetch

    return fetch("smollm2", cache=cache_dir(), quiet=True)


@pytest.fixture
def db(tmp_path: Path) -> Generator[Db, None, None]:
    """An empty store, open for writing."""
    with open_writer(tmp_path / "store.duckdb") as store:
        yield store

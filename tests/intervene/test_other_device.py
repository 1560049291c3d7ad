"""Effects and attributions on a device that is not the CPU are the CPU's."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from safesail.sae.attribution import attribute, token_target
from safesail.sae.load import open_sae
from safesail.store.connection import open_writer
from safesail.store.sql import rows
from safesail.subject.loading import ModelConfig, load_subject
from tests import pretend_device
from tests.planted_effects import make_world, measured

Found = tuple[list[tuple[str, str, str, float, float]], list[float]]


def found_on(device: str, folder: Path) -> Found:
    """Effects of a few features, and attributions to a token; made to run in a process of its own."""
    if device == pretend_device.NAME:
        pretend_device.install()
    world = make_world(
        folder, n_features=24, n_planted=4, d_model=16, vocabulary=120, strength=0.3, device=device
    )
    with open_writer(folder / "store.duckdb") as db:
        measured(world, [0, 9], db)
        effects = rows(
            db,
            "SELECT condition, texts, measure, value, null_value FROM effects WHERE null_value IS NOT NULL"
            " ORDER BY ALL",
        )
    subject = load_subject(ModelConfig(str(folder / "model"), device))
    sae = open_sae(str(folder / "planted"), model=subject.info, device=device)
    given = attribute(subject, [sae], list(range(20, 40)), token_target(world.sets[0][0]))["planted"]
    return [(*map(str, row[:3]), *map(float, row[3:])) for row in effects], given.attribution.tolist()  # pyright: ignore[reportReturnType]


def test_on_another_device(tmp_path: Path) -> None:
    # Autograd counts devices once, at the first backward pass of a process.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        there = fresh.submit(found_on, pretend_device.NAME, tmp_path / "there").result()
    here = found_on("cpu", tmp_path / "here")
    assert len(here[0]) > 20
    assert len(here[1]) > 20
    for mine, other in zip(here[0], there[0], strict=True):
        assert other == (*mine[:3], pytest.approx(mine[3], abs=1e-4), pytest.approx(mine[4], abs=1e-4))
    assert there[1] == pytest.approx(here[1], rel=1e-3, abs=1e-4)

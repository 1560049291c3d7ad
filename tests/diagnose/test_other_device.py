"""A diagnosis on a device that is not the CPU; what `tests/pretend_device.py` can tell of one."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from safesail.diagnose.config import DiagnoseConfig
from safesail.diagnose.known import KnownFeatures
from safesail.diagnose.run import diagnose_prompt
from safesail.sae.load import load_with_saes
from safesail.subject.loading import ModelConfig, load_subject
from tests import pretend_device
from tests.harvest.conftest import write_sae
from tests.tiny_model import write_tiny_model


def diagnosed_on(device: str, folder: Path) -> dict[str, Any]:
    """What fires and what the next token rests on; made to run in a process of its own."""
    pretend_device.install()
    subject, saes = load_with_saes(ModelConfig(str(folder / "tiny"), device), [str(folder / "saes" / "*")])
    config = DiagnoseConfig(generate=4, target="")
    found = diagnose_prompt(subject, saes, "the heron waits", config, known=KnownFeatures({}))
    assert found.path is not None
    nodes = found.path.nodes
    edges = found.path.edges
    return {
        "fired": dict(
            zip(
                zip(found.fired["position"], found.fired["feature"], strict=True),
                found.fired["value"],
                strict=True,
            )
        ),
        "answer": found.answer,
        "target": found.path.target,
        "nodes": dict(
            zip(zip(nodes["position"], nodes["feature"], strict=True), nodes["attribution"], strict=True)
        ),
        "edges": sorted(edges["attribution"].tolist()),
    }


def test_it_is_that_of_the_cpu(tmp_path: Path) -> None:
    info = load_subject(ModelConfig(str(write_tiny_model(tmp_path / "tiny")))).info
    for layer in (0, 2):
        write_sae(tmp_path / "saes" / f"l{layer}", f"blocks.{layer}.hook_mlp_out", info, seed=layer)
    # Autograd counts devices once, at the first backward pass of a process.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        there, here = (
            fresh.submit(diagnosed_on, name, tmp_path).result() for name in (pretend_device.NAME, "cpu")
        )
    assert (there["answer"], there["target"]) == (here["answer"], here["target"])
    for figure in ("fired", "nodes"):
        assert there[figure] == pytest.approx(here[figure], abs=1e-5)
    assert there["edges"] == pytest.approx(here["edges"], abs=1e-5)

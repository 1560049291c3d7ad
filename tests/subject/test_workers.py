"""Batches that run at once give what they give one after the other."""

import threading
from collections.abc import Iterator

import pytest
import torch

from safesail.subject.protocol import Subject
from safesail.subject.workers import TOKENS_PER_WORKER, open_workers

HOOKS = ["blocks.0.hook_mlp_out", "blocks.2.hook_resid_post"]


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize(
    ("device", "tokens", "n", "threads"),
    [
        ("cpu", 8 * TOKENS_PER_WORKER, 3, 1),
        ("cpu", TOKENS_PER_WORKER, 1, 3),
        ("cpu", 1, 1, 3),
        ("meta", 10**6, 1, 3),
    ],
)
def test_streams_share_the_threads(device: str, tokens: int, n: int, threads: int) -> None:
    with open_workers(device, tokens) as streams:
        assert streams.n == n
        assert streams.submit(torch.get_num_threads).result() == threads
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_activations_do_not_depend_on_what_runs_beside_them(tiny: Subject) -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randint(1, 250, (2, 3 + i % 5), generator=generator) for i in range(60)]
    hooks = [HOOKS[: 1 + i % 2] for i in range(60)]
    with open_workers("cpu", 10**6) as streams:
        found = [
            streams.submit(tiny.run, ids, capture=wanted) for ids, wanted in zip(batches, hooks, strict=True)
        ]
        together = [f.result().activations for f in found]
    for ids, wanted, seen in zip(batches, hooks, together, strict=True):
        assert list(seen) == wanted
        for hook, alone in tiny.run(ids, capture=wanted).activations.items():
            torch.testing.assert_close(seen[hook], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("three_threads")
def test_what_has_not_begun_is_dropped_at_the_end() -> None:
    go = threading.Event()
    with open_workers("cpu", 10**6) as streams:
        running = [streams.submit(go.wait, 10) for _ in range(streams.n)]
        waiting = streams.submit(torch.get_num_threads)
        threading.Timer(0.2, go.set).start()
    assert all(f.result() for f in running)
    assert waiting.cancelled()

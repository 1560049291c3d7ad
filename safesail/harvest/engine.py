"""Where shards run: in this process, or on the workers of a Ray cluster. Results come back in the shards' order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import cycle
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from safesail.errors import ConfigError
from safesail.harvest.activations import ShardResult, run_shard
from safesail.harvest.config import HarvestConfig
from safesail.harvest.shards import Shard
from safesail.sae.protocol import SAE
from safesail.subject.model import SubjectModel

Keep = Mapping[str, NDArray[np.bool_]] | None
Loaded = tuple[SubjectModel, Sequence[SAE]]

SHARDS_A_WORKER = 2
"""Shards that are under way or waiting for each worker: none idles, and few results wait in memory."""


class Engine(Protocol):
    """Runs shards; what it gives does not depend on which engine it is."""

    def run(
        self, loaded: Loaded, shards: Iterable[Shard], config: HarvestConfig, keep: Keep
    ) -> Iterator[ShardResult]:
        """Results, in the order of `shards`."""
        ...


class LocalEngine:
    """Shards run here, in turn."""

    def run(
        self, loaded: Loaded, shards: Iterable[Shard], config: HarvestConfig, keep: Keep
    ) -> Iterator[ShardResult]:
        """Results, in the order of `shards`."""
        subject, saes = loaded
        for shard in shards:
            yield run_shard(subject, saes, shard, config, keep)


@dataclass(frozen=True)
class RayEngine:
    """Shards run on Ray actors, each with a model of its own; `pip install safesail[ray]`."""

    load: Callable[[], Loaded]
    """Loads the subject model and the SAEs on a worker, the same as in the harvest's job."""

    n_workers: int
    resources: Mapping[str, float]
    """Of each worker, in Ray's words: `{"num_gpus": 1}`."""

    def run(
        self, loaded: Loaded, shards: Iterable[Shard], config: HarvestConfig, keep: Keep
    ) -> Iterator[ShardResult]:
        """Results, in the order of `shards`.

        Raises:
            ConfigError: Ray is not installed.
        """
        ray = _ray()
        if not ray.is_initialized():
            ray.init()
        remote = ray.remote(**self.resources)(_Worker)
        workers = [remote.remote(self.load, config, keep) for _ in range(self.n_workers)]
        waiting: deque[Any] = deque()
        for worker, shard in zip(cycle(workers), shards, strict=False):
            waiting.append(worker.run.remote(shard))
            if len(waiting) >= SHARDS_A_WORKER * self.n_workers:
                yield ray.get(waiting.popleft())
        while waiting:
            yield ray.get(waiting.popleft())
        for worker in workers:
            ray.kill(worker)


class _Worker:
    """One model and its SAEs, on one worker."""

    def __init__(self, load: Callable[[], Loaded], config: HarvestConfig, keep: Keep) -> None:
        self._subject, self._saes = load()
        self._config = config
        self._keep = keep

    def run(self, shard: Shard) -> ShardResult:
        return run_shard(self._subject, self._saes, shard, self._config, self._keep)


def _ray() -> Any:
    try:
        return import_module("ray")
    except ImportError as error:
        raise ConfigError("engine ray needs Ray: pip install 'safesail[ray]'") from error

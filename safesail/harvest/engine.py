"""Where shards run: in this process, or on the workers of a Ray cluster. Results come back in the shards' order."""

import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar

import torch

from safesail.errors import ConfigError, FingerprintError, SafeSailError, SubjectError
from safesail.harvest.activations import ShardResult, finish_shard, start_shard
from safesail.harvest.config import HarvestConfig
from safesail.harvest.feature_list import Keep
from safesail.harvest.shards import Shard
from safesail.sae.protocol import SAE
from safesail.subject.protocol import Subject
from safesail.subject.workers import BatchWorkers, open_workers

Loaded = tuple[Subject, Sequence[SAE]]
Started = TypeVar("Started")

SHARDS_PER_WORKER = 2
"""Shards that are under way or waiting for each worker: none idles, and few results wait in memory."""

RESTARTS = 2
"""Times that a worker which died is started again, its shard with it, before the harvest gives up."""


Engine = Callable[[Loaded, Iterable[Shard], HarvestConfig, Keep | None], Generator[ShardResult, None, None]]
"""Runs shards and gives their results in order; they do not depend on which engine it is."""


def run_here(
    loaded: Loaded, shards: Iterable[Shard], config: HarvestConfig, keep: Keep | None
) -> Generator[ShardResult, None, None]:
    """Shards run in this process, in turn: while one is brought into order, the batches of the next one run."""
    subject, saes = loaded
    with _workers(subject, config) as workers:
        yield from _in_order(
            shards,
            lambda shard: start_shard(subject, saes, shard, config, workers),
            lambda started: finish_shard(subject, started, config, keep),
            at_once=2,
        )


def _workers(subject: Subject, config: HarvestConfig) -> AbstractContextManager[BatchWorkers]:
    assert config.batch_tokens != "auto", "the harvest has put a number in its place"
    return open_workers(subject.device, config.batch_tokens)


def _in_order(
    shards: Iterable[Shard],
    start: Callable[[Shard], Started],
    finish: Callable[[Started], ShardResult],
    *,
    at_once: int,
) -> Iterator[ShardResult]:
    """Keep so many shards under way, and give their results in order; where reading fails, those come first."""
    waiting: deque[Started] = deque()
    reading, fault = iter(shards), None
    while fault is None:
        try:
            shard = next(reading)
        except StopIteration:
            break
        except SafeSailError as error:
            fault = error
        else:
            waiting.append(start(shard))
            if len(waiting) == at_once:
                yield finish(waiting.popleft())
    while waiting:
        yield finish(waiting.popleft())
    if fault is not None:
        raise fault


@dataclass(frozen=True)
class Cluster:
    """Ray workers, and where they run."""

    n_workers: int = 2
    gpus: float = 0
    """Of each worker."""

    address: str = "local"
    """Of a Ray cluster that runs already, as `ray.init` takes it; `local`: one on this machine, for this run
    alone, which only programs on this machine can reach."""


@dataclass(frozen=True)
class RayEngine:
    """Shards run on Ray actors, each with a model and SAEs of its own; `pip install 'safesail[ray]'`.

    The same shards, batches and threads go through the same code as in `run_here`, so on processors of one
    kind the results are the same bytes. A worker that dies is started again with the shard it had.

    Raises:
        ConfigError: Ray is not installed.
    """

    load: Callable[[], Loaded]
    """Loads the subject model and the SAEs on a worker: those of the harvest, which the worker checks."""

    cluster: Cluster
    threads: int | None = None
    """CPU threads of each worker; None: as many as this process uses."""

    def __post_init__(self) -> None:
        if find_spec("ray") is None:
            raise ConfigError("engine ray needs Ray: pip install 'safesail[ray]'")

    def __call__(
        self, loaded: Loaded, shards: Iterable[Shard], config: HarvestConfig, keep: Keep | None
    ) -> Generator[ShardResult, None, None]:
        """Results, in the order of `shards`.

        Raises:
            ConfigError: the cluster cannot be reached, or has no room for the workers.
            FingerprintError: a worker finds another model or SAE than this process.
            SubjectError: a worker died again and again.
            SafeSailError: what a shard raises, as in `run_here`.
        """
        threads = torch.get_num_threads() if self.threads is None else self.threads
        with _connected(self.cluster, threads) as ray:
            _check_room(ray, self.cluster, threads)
            options = {"num_cpus": threads, "num_gpus": self.cluster.gpus}
            remote = ray.remote(max_restarts=RESTARTS, max_task_retries=RESTARTS, **options)(_Worker)
            kept = ray.put(keep)  # once, however many workers read it
            told = (self.load, _identity(loaded), config, threads, kept)
            workers = [remote.remote(*told) for _ in range(self.cluster.n_workers)]
            try:
                pool = _Workers(ray, workers)
                yield from _in_order(
                    shards, pool.start, pool.finish, at_once=SHARDS_PER_WORKER * len(workers)
                )
            finally:
                for worker in workers:
                    ray.kill(worker)


class _Worker:
    """One model and its SAEs, on one worker; loaded with the first shard, so that faults are reported."""

    def __init__(
        self,
        load: Callable[[], Loaded],
        identity: dict[str, str],
        config: HarvestConfig,
        threads: int,
        keep: Keep | None,
    ) -> None:
        self._load, self._identity = load, identity
        self._config, self._threads, self._keep = config, threads, keep
        self._loaded: Loaded | None = None

    def run(self, shard: Shard) -> ShardResult:
        subject, saes = self._loaded = self._loaded or self._checked()
        with _workers(subject, self._config) as workers:
            started = start_shard(subject, saes, shard, self._config, workers)
            return finish_shard(subject, started, self._config, self._keep)

    def _checked(self) -> Loaded:
        torch.set_num_threads(self._threads)
        loaded = self._load()
        torch.set_num_threads(self._threads)  # whatever the loading set
        if other := sorted(set(_identity(loaded).items()) ^ set(self._identity.items())):
            raise FingerprintError(
                f"{other[0][0]} is not the same on every node; bring the same files to all of them"
            )
        return loaded


def _identity(loaded: Loaded) -> dict[str, str]:
    """Hashes of the weights that decide every number, by what they are of."""
    subject, saes = loaded
    return {f"SAE {sae.info.sae_id}": str(sae.info.sha256) for sae in saes} | {
        f"model {subject.info.model_id}": str(subject.info.fingerprint)
    }


class _Workers:
    """The workers of a run, and what each has to do."""

    def __init__(self, ray: Any, workers: Sequence[Any]) -> None:
        self._ray = ray
        self._workers = workers
        self._worker_of: dict[Any, int] = {}

    def start(self, shard: Shard) -> tuple[Shard, Any]:
        """Give the shard to the worker with the fewest shards that are not done."""
        refs = list(self._worker_of)
        running: list[Any] = []
        if refs:
            _, running = self._ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)
        busy = Counter(self._worker_of[ref] for ref in running)
        number = min(range(len(self._workers)), key=lambda number: busy[number])
        ref = self._workers[number].run.remote(shard)
        self._worker_of[ref] = number
        return shard, ref

    def finish(self, started: tuple[Shard, Any]) -> ShardResult:
        """Wait for the shard's result."""
        shard, ref = started
        del self._worker_of[ref]
        try:
            return self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SafeSailError):
                raise error.cause from error
            raise
        except self._ray.exceptions.RayError as error:
            raise SubjectError(
                f"a Ray worker died on shard {shard.number}, and again when it was started anew "
                f"({type(error).__name__}); what is stored is kept: run again, with fewer workers or smaller batches "
                "if memory ran out"
            ) from error


@contextmanager
def _connected(cluster: Cluster, threads: int) -> Generator[Any]:
    """Ray, connected for the time of a run; a connection that is there already is used and left as it is."""
    settings: dict[str, Any] = {"address": cluster.address, "logging_level": logging.ERROR}
    if cluster.address == "local":
        # Read when Ray is imported: loopback addresses only, and no reports to its makers.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        settings |= {"num_cpus": cluster.n_workers * threads, "include_dashboard": False}
    ray = import_module("ray")
    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(log_to_driver=False, **settings)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"no Ray cluster at {cluster.address!r}: {reason}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_room(ray: Any, cluster: Cluster, threads: int) -> None:
    """Ray would wait for ever for what the cluster does not have."""
    there = ray.cluster_resources()
    for name, each in (("CPU", threads), ("GPU", cluster.gpus)):
        if there.get(name, 0) < each * cluster.n_workers:
            raise ConfigError(
                f"{cluster.n_workers} Ray workers need {each * cluster.n_workers:g} {name}s, the cluster has "
                f"{there.get(name, 0):g}; use fewer workers or threads, or start more nodes first"
            )

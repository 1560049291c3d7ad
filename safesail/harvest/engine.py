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
from safesail.harvest.batch_size import batch_tokens_of
from safesail.harvest.config import HarvestConfig
from safesail.harvest.feature_list import Keep
from safesail.harvest.shards import Shard
from safesail.sae.protocol import SAE, DescribedSae
from safesail.subject.described import DescribedSubject
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
    assert isinstance(config.batch_tokens, int), "the harvest has put a number in its place"
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
        """Results, in the order of `shards`; raises what `started` and its engine raise."""
        with self.started() as engine:
            yield from engine(loaded, shards, config, keep)

    @contextmanager
    def started(self) -> Generator["StartedRay", None, None]:
        """The workers, under way until the block ends: what each has loaded is not loaded again.

        Raises:
            ConfigError: the cluster cannot be reached, or has no room for the workers.
        """
        threads = torch.get_num_threads() if self.threads is None else self.threads
        with _connected(self.cluster, threads) as ray:
            _check_room(ray, self.cluster, threads)
            options = {"num_cpus": threads, "num_gpus": self.cluster.gpus}
            remote = ray.remote(max_restarts=RESTARTS, max_task_retries=RESTARTS, **options)(_Worker)
            workers = [remote.remote(self.load, threads) for _ in range(self.cluster.n_workers)]
            try:
                yield StartedRay(ray, workers)
            finally:
                for worker in workers:
                    ray.kill(worker)


@dataclass(frozen=True)
class StartedRay:
    """Ray workers that run; an `Engine`."""

    _ray: Any
    _workers: Sequence[Any]

    def describe(self) -> Loaded:
        """The model and the SAEs as the first worker has them, without their weights.

        Raises:
            SubjectError: the worker died again and again.
            SafeSailError: what the worker could not load.
        """
        return _result(self._ray, self._workers[0].describe.remote(), "while it loaded model and SAEs")

    def __call__(
        self, loaded: Loaded, shards: Iterable[Shard], config: HarvestConfig, keep: Keep | None
    ) -> Generator[ShardResult, None, None]:
        """Results, in the order of `shards`.

        Raises:
            FingerprintError: a worker has another model or SAE than `loaded` says.
            SubjectError: a worker died again and again.
            SafeSailError: what a shard raises, as in `run_here`.
        """
        told = self._ray.put((_identity(loaded), config, keep))  # once, however many workers read it
        pool = _Workers(self._ray, self._workers, told)
        yield from _in_order(shards, pool.start, pool.finish, at_once=SHARDS_PER_WORKER * len(self._workers))


Told = tuple[dict[str, str], HarvestConfig, Keep | None]
"""What a worker needs to know of a harvest: identities of model and SAEs, settings, features to keep."""


class _Worker:
    """One model and its SAEs, on one worker; loaded when first asked for, so that faults are reported."""

    def __init__(self, load: Callable[[], Loaded], threads: int) -> None:
        self._load, self._threads = load, threads
        self._loaded: Loaded | None = None
        self._batch_tokens: int | None = None

    def describe(self) -> Loaded:
        subject, saes = self._here()
        return DescribedSubject.of(subject), [DescribedSae(sae.info) for sae in saes]

    def run(self, shard: Shard, told: Told) -> ShardResult:
        identity, config, keep = told
        subject, saes = self._here()
        if other := sorted(set(_identity((subject, saes)).items()) ^ set(identity.items())):
            raise FingerprintError(
                f"{other[0][0]} is not the same on every node; bring the same files to all of them"
            )
        if self._batch_tokens is None:
            self._batch_tokens = batch_tokens_of(config, subject, saes)
        config = config.model_copy(update={"batch_tokens": self._batch_tokens})
        with _workers(subject, config) as workers:
            started = start_shard(subject, saes, shard, config, workers)
            return finish_shard(subject, started, config, keep)

    def _here(self) -> Loaded:
        if self._loaded is None:
            torch.set_num_threads(self._threads)
            self._loaded = self._load()
            torch.set_num_threads(self._threads)  # whatever the loading set
        return self._loaded


def _identity(loaded: Loaded) -> dict[str, str]:
    """What decides every number, hashes of weights and the number format, by what it is of."""
    subject, saes = loaded
    return {f"SAE {sae.info.sae_id}": str(sae.info.sha256) for sae in saes} | {
        f"model {subject.info.model_id}": f"{subject.info.fingerprint} {subject.info.dtype}"
    }


class _Workers:
    """The workers of a run, and what each has to do."""

    def __init__(self, ray: Any, workers: Sequence[Any], told: Any) -> None:
        self._ray = ray
        self._workers = workers
        self._told = told
        self._worker_of: dict[Any, int] = {}

    def start(self, shard: Shard) -> tuple[Shard, Any]:
        """Give the shard to the worker with the fewest shards that are not done."""
        refs = list(self._worker_of)
        running: list[Any] = []
        if refs:
            _, running = self._ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)
        busy = Counter(self._worker_of[ref] for ref in running)
        number = min(range(len(self._workers)), key=lambda number: busy[number])
        ref = self._workers[number].run.remote(shard, self._told)
        self._worker_of[ref] = number
        return shard, ref

    def finish(self, started: tuple[Shard, Any]) -> ShardResult:
        """Wait for the shard's result."""
        shard, ref = started
        del self._worker_of[ref]
        return _result(self._ray, ref, f"on shard {shard.number}")


def _result(ray: Any, ref: Any, when: str) -> Any:
    """What a worker gives, or raises."""
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SafeSailError):
            raise error.cause from error
        raise
    except ray.exceptions.RayError as error:
        raise SubjectError(
            f"a Ray worker died {when}, and again when it was started anew "
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

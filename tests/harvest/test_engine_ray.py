"""A harvest on a real Ray cluster stores what one in this process stores."""

import hashlib
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from safesail.errors import ConfigError, FingerprintError, SaeError, SubjectError
from safesail.harvest.config import HarvestConfig
from safesail.harvest.engine import Cluster, Loaded, RayEngine
from safesail.harvest.run import HarvestJob, run_harvest
from safesail.harvest.shards import cut_shards
from safesail.sae.load import open_sae
from safesail.sae.protocol import SAE
from safesail.store.connection import Db, open_writer
from safesail.store.sql import rows, value
from safesail.subject.loading import ModelConfig, load_subject
from safesail.subject.protocol import Subject
from safesail.text.documents import read_documents
from tests.harvest.conftest import TEXTS, write_texts

# Not importorskip: what the engine sets must be there before Ray is imported.
if find_spec("ray") is None:
    pytest.skip("Ray is not installed (extra `ray`)", allow_module_level=True)

CONFIG = HarvestConfig(n_ctx=16, shard_tokens=60, batch_tokens=64)
TABLES = ("documents", "windows", "activations_f32", "features", "shards", "harvest_saes")


def digest(db: Db) -> dict[str, str]:
    """SHA-256 of every table's rows, in one order."""
    return {t: hashlib.sha256(repr(rows(db, f"FROM {t} ORDER BY ALL")).encode()).hexdigest() for t in TABLES}


def load_from(model: str, saes: list[str], fault: str = "", marker: str = "") -> Loaded:
    """As a worker loads, `fault` first; with a `marker` file it happens only until that file is there."""
    subject = load_subject(ModelConfig(model))
    if fault == "dies" and not (marker and Path(marker).exists()):
        if marker:
            Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "lacks":
        raise SubjectError("model 'tiny' is not on this machine")
    return subject, [open_sae(spec, model=subject.info) for spec in saes]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """Where the model and the SAEs of the fixtures lie."""
    base = tmp_path_factory.getbasetemp()
    return str(next(base.glob("model*/tiny"))), sorted(str(p) for p in base.glob("saes*/tiny-l*"))


@pytest.fixture
def engine(subject: Subject, saes: list[SAE], places: tuple[str, list[str]]) -> RayEngine:
    return RayEngine(partial(load_from, *places), Cluster(n_workers=2))


@pytest.fixture(scope="module")
def connected() -> Iterator[None]:
    """One connection for many tests: starting Ray takes seconds."""
    ray = import_module("ray")
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def job(subject: Subject, saes: Sequence[SAE], path: Path, **settings: object) -> HarvestJob:
    return HarvestJob(subject, saes, [str(path)], CONFIG.model_copy(update=settings))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return write_texts(tmp_path / "texts.jsonl", [*TEXTS, *(f"filler number {i}" for i in range(60))])


def test_a_cluster_of_the_run_alone_listens_on_loopback_and_ends_with_it(
    subject: Subject, saes: list[SAE], engine: RayEngine, texts: Path
) -> None:
    shards = cut_shards(
        read_documents([str(texts)]), subject.tokenize, n_ctx=16, shard_tokens=60, n_tokens=200
    )
    results = engine((subject, saes), shards, CONFIG, None)
    assert next(results).shard.number == 0
    ours = psutil.Process().children(recursive=True)
    listening = [
        c.laddr.ip for p in ours for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN
    ]
    assert len(listening) > 2
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}
    assert [r.shard.number for r in results] == [1, 2]
    assert not import_module("ray").is_initialized()
    assert not psutil.wait_procs(ours, timeout=30)[1]


def test_no_cluster_is_an_error(
    db: Db, subject: Subject, saes: list[SAE], engine: RayEngine, texts: Path
) -> None:
    absent = replace(engine, cluster=Cluster(n_workers=1, address="not an address"))
    with pytest.raises(ConfigError, match="no Ray cluster at 'not an address'"):
        run_harvest(db, job(subject, saes, texts), engine=absent, quiet=True)


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("n_workers", [1, 2])
def test_one_and_two_workers_store_the_bytes_of_a_local_run(
    n_workers: int, subject: Subject, saes: list[SAE], engine: RayEngine, texts: Path, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"features": "listed", "whole_documents": 0.3})
    keep = {sae.info.sae_id: np.arange(sae.info.d_sae) % 3 == 0 for sae in saes}
    work = HarvestJob(subject, saes, [str(texts)], config, keep)
    stored: list[dict[str, str]] = []
    for name, used in (("here", None), ("ray", replace(engine, cluster=Cluster(n_workers)))):
        with open_writer(tmp_path / f"{name}.duckdb") as db:
            report = run_harvest(db, work, engine=used, quiet=True)
            assert report.new_tokens == report.n_tokens > 8 * (CONFIG.shard_tokens or 0)
            stored.append(digest(db))
    assert stored[0] == stored[1]
    assert import_module("ray").is_initialized()  # the caller's connection is left as it was


@pytest.mark.usefixtures("connected")
def test_a_worker_uses_the_threads_asked_for(
    db: Db, subject: Subject, saes: list[SAE], engine: RayEngine, texts: Path, tmp_path: Path
) -> None:
    seen = tmp_path / "threads"

    def load() -> Loaded:
        seen.write_text(str(torch.get_num_threads()))
        return engine.load()

    run_harvest(db, job(subject, saes, texts), engine=RayEngine(load, Cluster(1), threads=3), quiet=True)
    assert seen.read_text() == "3"


@pytest.mark.usefixtures("connected")
def test_a_worker_that_dies_once_is_started_again(
    db: Db,
    subject: Subject,
    saes: list[SAE],
    places: tuple[str, list[str]],
    texts: Path,
    tmp_path: Path,
) -> None:
    marker = tmp_path / "died"
    load = partial(load_from, *places, fault="dies", marker=str(marker))
    run_harvest(db, job(subject, saes, texts), engine=RayEngine(load, Cluster(1)), quiet=True)
    assert marker.exists()
    with open_writer(tmp_path / "here.duckdb") as here:
        run_harvest(here, job(subject, saes, texts), quiet=True)
        assert digest(db) == digest(here)


@pytest.mark.usefixtures("connected")
def test_workers_that_keep_dying_end_the_run_and_the_next_one_goes_on(
    db: Db, subject: Subject, saes: list[SAE], places: tuple[str, list[str]], texts: Path, tmp_path: Path
) -> None:
    begun = job(subject, saes, texts)
    broken = texts.read_text()
    texts.write_text(broken + "{broken\n")
    with pytest.raises(ConfigError, match="not readable as JSON lines"):
        run_harvest(db, begun, quiet=True)
    done = value(db, "SELECT sum(n_tokens) FROM shards")
    texts.write_text(broken)
    dying = RayEngine(partial(load_from, *places, fault="dies"), Cluster(1))
    with pytest.raises(
        SubjectError, match=r"a Ray worker died on shard \d+, and again .* what is stored is kept"
    ):
        run_harvest(db, begun, engine=dying, quiet=True)
    report = run_harvest(db, begun, engine=RayEngine(partial(load_from, *places), Cluster(1)), quiet=True)
    assert report.new_tokens == report.n_tokens - done
    with open_writer(tmp_path / "here.duckdb") as here:
        run_harvest(here, begun, quiet=True)
        assert digest(db) == digest(here)


@pytest.mark.usefixtures("connected")
def test_what_a_worker_lacks_is_said_in_one_line(
    db: Db, subject: Subject, saes: list[SAE], places: tuple[str, list[str]], texts: Path
) -> None:
    lacking = RayEngine(partial(load_from, *places, fault="lacks"), Cluster(1))
    with pytest.raises(SubjectError, match=r"^model 'tiny' is not on this machine$"):
        run_harvest(db, job(subject, saes, texts), engine=lacking, quiet=True)


@pytest.mark.usefixtures("connected")
def test_a_worker_with_other_weights_is_refused(
    db: Db, subject: Subject, saes: list[SAE], places: tuple[str, list[str]], texts: Path
) -> None:
    other = RayEngine(partial(load_from, places[0], places[1][:1]), Cluster(1))
    with pytest.raises(FingerprintError, match="SAE tiny-l2 is not the same on every node"):
        run_harvest(db, job(subject, saes, texts), engine=other, quiet=True)


@pytest.mark.usefixtures("connected", "subject", "saes")  # the last two write what `places` finds
def test_the_driver_loads_no_weights_and_each_worker_once(
    places: tuple[str, list[str]], texts: Path, tmp_path: Path
) -> None:
    loads = tmp_path / "loads"
    loads.mkdir()

    def load() -> Loaded:
        (loads / f"{os.getpid()}-{len(list(loads.iterdir()))}").touch()
        return load_from(*places)

    with RayEngine(load, Cluster(2)).started() as engine, open_writer(tmp_path / "ray.duckdb") as db:
        subject, saes = engine.describe()
        with pytest.raises(SubjectError, match="not loaded in this process"):
            subject.run(torch.zeros((1, 1), dtype=torch.long))
        with pytest.raises(SaeError, match="not loaded in this process"):
            saes[0].encode(torch.zeros(1, 32))
        with pytest.raises(ConfigError, match="near names"):
            subject.check_hook("blocks.0.hook_mlp_put")
        # The workers find the size of their batches.
        work = job(subject, list(saes), texts, batch_tokens=None)
        run_harvest(db, work, engine=engine, quiet=True)
        stored = rows(db, "SELECT sae_key, feature, token FROM activations ORDER BY ALL")
    pids = [int(path.name.split("-")[0]) for path in loads.iterdir()]
    assert len(pids) == len(set(pids)) == 2 and os.getpid() not in pids
    with open_writer(tmp_path / "here.duckdb") as db:
        run_harvest(db, job(*load_from(*places), texts), quiet=True)
        assert rows(db, "SELECT sae_key, feature, token FROM activations ORDER BY ALL") == stored


@pytest.mark.usefixtures("connected")
def test_no_room_is_an_error_and_not_a_wait(
    db: Db, subject: Subject, saes: list[SAE], engine: RayEngine, texts: Path
) -> None:
    greedy = replace(engine, cluster=Cluster(n_workers=2, gpus=3))
    with pytest.raises(ConfigError, match=r"2 Ray workers need 6 GPUs, the cluster has \d"):
        run_harvest(db, job(subject, saes, texts), engine=greedy, quiet=True)

"""The writer thread: what goes wrong on it is raised where the harvest runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from safesail.errors import DataError
from safesail.harvest.activations import ShardResult
from safesail.harvest.config import HarvestConfig
from safesail.harvest.engine import run_here
from safesail.harvest.shards import Shard, cut_shards
from safesail.harvest.writer import Writer
from safesail.sae.protocol import SAE
from safesail.store.connection import Db
from safesail.store.harvest import HarvestRecord, open_harvest, read_harvest
from safesail.subject.protocol import Subject
from safesail.text.documents import read_documents

CONFIG = HarvestConfig(n_ctx=16, shard_tokens=60, batch_tokens=64)


@pytest.fixture
def shards(subject: Subject, text_file: Path) -> list[Shard]:
    documents = read_documents([str(text_file)])
    return list(cut_shards(documents, subject.tokenize, n_ctx=16, shard_tokens=60, n_tokens=None))


@pytest.fixture
def results(subject: Subject, saes: list[SAE], shards: list[Shard]) -> list[ShardResult]:
    return list(run_here((subject, saes), shards, CONFIG, None))


@pytest.fixture
def record(db: Db, subject: Subject, saes: list[SAE]) -> HarvestRecord:
    infos = [sae.info for sae in saes]
    return open_harvest(db, "h", subject.info, infos, {"n_ctx": 16}, replace=False)


def test_the_local_engine_gives_every_shard_in_order(
    subject: Subject, saes: list[SAE], shards: list[Shard], results: list[ShardResult]
) -> None:
    assert [r.shard for r in results] == shards
    assert len(shards) > 2
    (alone,) = run_here((subject, saes), shards[1:2], CONFIG, None)
    for name, nonzeros in alone.nonzeros.items():
        assert nonzeros.entry.tolist() == results[1].nonzeros[name].entry.tolist()
        assert nonzeros.feature.tolist() == results[1].nonzeros[name].feature.tolist()


def test_the_local_engine_runs_one_shard_ahead(
    subject: Subject, saes: list[SAE], shards: list[Shard]
) -> None:
    taken: list[int] = []

    def watched() -> Iterator[Shard]:
        for shard in shards:
            taken.append(shard.number)
            yield shard

    run = run_here((subject, saes), watched(), CONFIG, None)
    next(run)
    assert taken == [0, 1]
    run.close()


def test_shards_under_way_are_given_where_the_text_cannot_be_read_further(
    subject: Subject, saes: list[SAE], shards: list[Shard]
) -> None:
    def broken() -> Iterator[Shard]:
        yield from shards[:2]
        raise DataError("the tokenizer cannot take document 3")

    run = run_here((subject, saes), broken(), CONFIG, None)
    assert [next(run).shard.number, next(run).shard.number] == [0, 1]
    with pytest.raises(DataError, match="document 3"):
        next(run)


def test_all_is_stored_when_the_block_ends(db: Db, record: HarvestRecord, results: list[ShardResult]) -> None:
    with Writer(db, record) as writer:
        for result in results:
            writer.put(result)
    assert sorted(read_harvest(db, record.key, record.sae_keys).shards) == [r.shard.number for r in results]


def test_a_fault_on_the_thread_ends_the_harvest_and_keeps_what_is_done(
    db: Db, record: HarvestRecord, results: list[ShardResult], tmp_path: Path
) -> None:
    folder = tmp_path / "store.duckdb.harvest"

    with Writer(db, record) as writer:
        writer.put(results[0])
    (folder / "1").rename(tmp_path / "away")
    folder.rmdir()
    folder.write_text("a file where the folder was")
    later = read_harvest(db, record.key, record.sae_keys)
    with (
        pytest.raises(DataError, match=r"cannot write .*0000001\.run"),
        Writer(db, later) as writer,
    ):
        for result in results[1:] * 5:
            writer.put(result)
    assert sorted(read_harvest(db, record.key, record.sae_keys).shards) == [0]

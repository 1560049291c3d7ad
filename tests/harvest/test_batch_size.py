"""The search for a batch size, and that its answer changes no row."""

from pathlib import Path

import numpy as np
import pytest

from safesail.domain.records import LoadedSubject, SaeInfo
from safesail.errors import DeviceMemoryError
from safesail.harvest.batch_size import (
    CPU_BATCH_TOKENS,
    SHARD_TOKENS,
    SMALLEST,
    fitting_batch_tokens,
    fitting_shard_tokens,
    search,
)
from safesail.harvest.config import HarvestConfig
from safesail.harvest.run import HarvestJob, run_harvest
from safesail.sae.protocol import SAE
from safesail.store.connection import Db, open_writer
from safesail.store.sql import rows
from safesail.subject.protocol import Subject


class ModelConfig:
    """Takes `fixed + per_token * tokens` seconds and bytes a batch; memory is what the largest batch took."""

    def __init__(
        self, *, fixed: float = 0.0, per_token: float = 0.0, bytes_a_token: int = 0, there: float = np.inf
    ) -> None:
        self.fixed, self.per_token, self.bytes_a_token, self.there = fixed, per_token, bytes_a_token, there
        self.peak, self.now, self.ran = 0, 0.0, list[int]()

    def run(self, size: int) -> None:
        self.ran.append(size)
        if size * self.bytes_a_token > self.there:
            raise DeviceMemoryError("out of memory")
        self.peak = max(self.peak, size * self.bytes_a_token)
        self.now += self.fixed + self.per_token * size

    def used(self) -> int:
        return self.peak

    def search(self, *, limit: float, most: int) -> int:
        return search(self.run, self.used, limit=limit, most=most, clock=lambda: self.now)


def test_it_doubles_while_a_batch_costs_the_same_whatever_its_size() -> None:
    machine = ModelConfig(fixed=0.01)
    assert machine.search(limit=1e9, most=8 * SMALLEST) == 8 * SMALLEST
    assert machine.ran == [SMALLEST, 2 * SMALLEST, 4 * SMALLEST, 8 * SMALLEST]


def test_it_stops_where_doubling_does_not_pay() -> None:
    machine = ModelConfig(per_token=0.02 / SMALLEST)
    assert machine.search(limit=1e9, most=64 * SMALLEST) == SMALLEST
    assert machine.ran == [SMALLEST, 2 * SMALLEST]


def test_no_batch_runs_that_would_pass_the_limit() -> None:
    machine = ModelConfig(fixed=0.01, bytes_a_token=1000)
    limit = 1000.0 * 5 * SMALLEST
    assert machine.search(limit=limit, most=64 * SMALLEST) == 4 * SMALLEST
    assert machine.peak <= limit


def test_running_out_of_memory_gives_the_last_batch_that_fitted() -> None:
    machine = ModelConfig(fixed=0.01, bytes_a_token=1, there=3 * SMALLEST)
    assert machine.search(limit=1e9, most=64 * SMALLEST) == 2 * SMALLEST


def test_the_batch_that_is_found_is_remembered_and_changes_no_row(
    db: Db, subject: Subject, saes: list[SAE], text_file: Path, tmp_path: Path
) -> None:
    auto = HarvestConfig(n_ctx=16, batch_tokens="auto")
    job = HarvestJob(subject, saes, [str(text_file)], auto)
    run_harvest(db, job, quiet=True)
    (found,) = rows(db, "SELECT CAST(settings->>'batch_tokens' AS INTEGER) FROM harvests")[0]
    assert found >= SMALLEST
    with open_writer(tmp_path / "other.duckdb") as other:
        given = HarvestJob(subject, saes, [str(text_file)], auto.model_copy(update={"batch_tokens": 32}))
        assert given.harvest_id == job.harvest_id
        run_harvest(other, given, quiet=True)
        sql = "SELECT feature, token, value FROM activations ORDER BY sae_key, 1, 2"
        here, there = rows(db, sql), rows(other, sql)
    assert [r[:2] for r in here] == [r[:2] for r in there]
    assert np.allclose([r[2] for r in here], [r[2] for r in there], atol=1e-4)


def test_a_memory_limit_below_what_is_used_takes_the_smallest(subject: Subject, saes: list[SAE]) -> None:
    from safesail.harvest.batch_size import find_batch_tokens

    assert find_batch_tokens(subject, saes, 16, memory_gb=1e-3, most=1 << 16) == SMALLEST


def test_settings_refuse_nonsense() -> None:
    with pytest.raises(ValueError, match="batch_tokens"):
        HarvestConfig.model_validate({"batch_tokens": "fast"})


def test_sizes_that_fit_by_arithmetic() -> None:
    llama = LoadedSubject("llama", fingerprint="f" * 64, d_model=4096, n_layers=32, dtype="bfloat16")
    saes = [
        SaeInfo(f"s{i}", "llama", f"blocks.{i}.hook_mlp_out", 4096, 32_768, "topk", "a" * 64, "made", k=50)
        for i in range(32)
    ]
    # A token: 24 * 4096 * 2 + 3 * 4 * 32 * 4096 + 28 * 32 * 50 = 1,814,272 bytes, two batches at once; dense rows:
    # 3 * 2^28. Of 46.6 GB, (0.8 * 46.6e9 - 8.05e8) / 3,628,544 = 10,052.
    assert fitting_batch_tokens(llama, saes, 46.6e9) == 8_192
    assert fitting_batch_tokens(llama, saes, 6.6e9) == 1_024
    assert fitting_batch_tokens(llama, saes, 1e9) == SMALLEST
    assert fitting_shard_tokens("cpu", saes) == 8_192
    # 40 * 32 * 50 = 64 kB of host memory per token; half a terabyte would be 2 million.
    assert 8_192 <= fitting_shard_tokens("cuda", saes) <= 65_536
    assert fitting_shard_tokens("cuda", saes * 10_000) == 8_192


def test_a_size_that_is_left_open_is_remembered(
    db: Db, subject: Subject, saes: list[SAE], text_file: Path
) -> None:
    open_sizes = HarvestJob(subject, saes, [str(text_file)], HarvestConfig(n_ctx=16))
    run_harvest(db, open_sizes, quiet=True)
    stored = rows(db, "SELECT settings->>'batch_tokens', settings->>'shard_tokens' FROM harvests")
    assert stored == [(str(CPU_BATCH_TOKENS), str(SHARD_TOKENS))]
    given = HarvestConfig(n_ctx=16, shard_tokens=SHARD_TOKENS)
    assert HarvestJob(subject, saes, [str(text_file)], given).harvest_id == open_sizes.harvest_id

"""The harvest: plan, run, store, resume."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from queue import Queue
from threading import Thread
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from safesail.errors import ConfigError, DataError, FingerprintError
from safesail.harvest.activations import Bins, Nonzeros, ShardResult, bin_middle, run_shard
from safesail.harvest.config import HarvestConfig
from safesail.harvest.shards import Shard, cut_shards
from safesail.sae.protocol import SAE
from safesail.store.bulk import Column
from safesail.store.connection import Db
from safesail.store.harvest import (
    HarvestRecord,
    ShardRow,
    count_stored,
    finish_harvest,
    open_harvest,
    read_harvest,
    write_shard,
)
from safesail.subject.model import SubjectModel
from safesail.text.documents import read_documents


@dataclass(frozen=True)
class HarvestReport:
    """What a harvest did."""

    harvest_id: str
    sae_ids: tuple[str, ...]
    n_documents: int
    n_tokens: int
    n_nonzeros: int
    """Nonzeros stored by this harvest, all runs of it together."""

    new_tokens: int
    """Tokens that this run put through the subject model: 0 when there was nothing left to do."""

    seconds: float


@dataclass(frozen=True)
class HarvestJob:
    """What to run: everything that decides which rows a harvest stores."""

    subject: SubjectModel
    saes: Sequence[SAE]
    """SAEs of that model, at any of its hooks."""

    sources: Sequence[str]
    """Files, folders, `hf:NAME[:split]`, or `-` for standard input."""

    config: HarvestConfig
    keep: Mapping[str, NDArray[np.bool_]] | None = None
    """By sae_id, which features' nonzeros are kept, length d_sae; needed when `features` is `candidates`."""

    def __post_init__(self) -> None:
        if (self.config.features == "candidates") != (self.keep is not None):
            raise ConfigError(
                "features: candidates needs the candidates of a selection; run select-sae first"
            )

    @property
    def harvest_id(self) -> str:
        """Hash of model, SAEs, sources and settings; batch sizes and machines do not enter."""
        keep = self.keep or {}
        body = {
            "model": self.subject.info.fingerprint,
            "saes": sorted((sae.info.sae_id, sae.info.sha256, sae.info.hook) for sae in self.saes),
            "sources": list(self.sources),
            "settings": self.config.model_dump(exclude={"batch_tokens"}),
            "keep": {sae_id: hashlib.sha256(kept.tobytes()).hexdigest() for sae_id, kept in keep.items()},
        }
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def harvest(db: Db, job: HarvestJob, *, replace: bool = False, quiet: bool = False) -> HarvestReport:
    """Run the subject model over the text and store the nonzero activations of every SAE, exactly once.

    A harvest that was killed goes on at its first unfinished shard; a finished one does nothing.

    Args:
        db: Store, open for writing.
        job: What to run; other settings are another harvest.
        replace: Drop what the store holds of these SAEs from another harvest.
        quiet: No progress bar.

    Raises:
        ConfigError: nothing to read, or the SAEs have another harvest here and `replace` is off.
        FingerprintError: the text changed since the harvest began.
        DataError: the store cannot be written; what is stored so far is kept.
    """
    started = perf_counter()
    infos = [sae.info for sae in job.saes]
    record = open_harvest(
        db, job.harvest_id, job.subject.info, infos, job.config.model_dump(), replace=replace
    )
    new_tokens = 0
    if not record.finished:
        new_tokens = _run_shards(db, record, job, quiet=quiet)
        record = read_harvest(db, record.key, record.sae_keys)
        if record.n_tokens == 0:
            raise ConfigError(f"no text in {', '.join(job.sources)}")
        finish_harvest(db, record, {info.sae_id: info.d_sae for info in infos}, bin_middle)
    documents, nonzeros = count_stored(db, record)
    return HarvestReport(
        harvest_id=job.harvest_id,
        sae_ids=tuple(info.sae_id for info in infos),
        n_documents=documents,
        n_tokens=record.n_tokens,
        n_nonzeros=nonzeros,
        new_tokens=new_tokens,
        seconds=perf_counter() - started,
    )


def _run_shards(db: Db, record: HarvestRecord, job: HarvestJob, *, quiet: bool) -> int:
    """Run and store every shard that is not stored yet; returns the tokens run."""
    config = job.config
    documents = read_documents(job.sources, column=config.column, seed=config.seed)
    shards = cut_shards(
        documents, job.subject.tokenize, shard_tokens=config.shard_tokens, n_tokens=config.n_tokens
    )
    new_tokens = 0
    with (
        _Writer(db, record, config.n_ctx) as writer,
        tqdm(desc="harvest", unit="tok", total=config.n_tokens, disable=quiet) as bar,
    ):
        for shard in shards:
            if not _already_stored(record, shard):
                writer.put(run_shard(job.subject, job.saes, shard, config, job.keep))
                new_tokens += shard.n_tokens
            bar.update(shard.n_tokens)
    return new_tokens


def _already_stored(record: HarvestRecord, shard: Shard) -> bool:
    stored = record.shards.get(shard.number)
    if stored is not None and stored != shard.content:
        raise FingerprintError(
            f"the text changed since this harvest began (shard {shard.number} reads other documents); "
            "restore it, or start again with --replace"
        )
    return stored is not None


class _Writer:
    """Stores shards on a thread of its own while the next one runs; at most one waits, so memory stays flat."""

    def __init__(self, db: Db, record: HarvestRecord, n_ctx: int) -> None:
        self._db = db
        self._record = record
        self._n_ctx = n_ctx
        self._first_window = record.n_windows
        self._queue: Queue[ShardResult | None] = Queue(maxsize=1)
        self._fault: list[BaseException] = []
        self._thread = Thread(target=self._work, name="store-writer")

    def __enter__(self) -> "_Writer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()
        self._raise_fault()

    def put(self, result: ShardResult) -> None:
        """Hand over a shard; raises what went wrong with an earlier one."""
        self._raise_fault()
        self._queue.put(result)

    def _raise_fault(self) -> None:
        if self._fault:
            fault = self._fault.pop()
            if isinstance(fault, OSError):
                raise DataError(
                    f"the store cannot be written: {fault}; what is stored so far is kept"
                ) from fault
            raise fault

    def _work(self) -> None:
        while (result := self._queue.get()) is not None:
            if self._fault:
                continue  # drain: the main thread is about to raise it
            try:
                self._write(result)
            except BaseException as fault:  # noqa: BLE001  handed to the main thread, which raises it
                self._fault.append(fault)

    def _write(self, result: ShardResult) -> None:
        first = self._first_window
        row = ShardRow(
            number=result.shard.number,
            content=result.shard.content,
            n_documents=len(result.shard.documents),
            n_windows=len(result.window_ids),
            n_tokens=result.shard.n_tokens,
        )
        tables: list[tuple[str, Mapping[str, Column]]] = [
            ("documents", _document_columns(self._record.key, result)),
            ("windows", _window_columns(self._record.key, result, first)),
        ]
        for sae_id, nonzeros in result.nonzeros.items():
            key = self._record.sae_keys[sae_id]
            tables.append(("activations", _activation_columns(key, nonzeros, first * self._n_ctx)))
            tables.append(("activation_bins", _bin_columns(key, result.bins[sae_id])))
        write_shard(self._db, self._record.key, row, tables)
        self._first_window = first + row.n_windows


def _document_columns(key: int, result: ShardResult) -> dict[str, Column]:
    documents = result.shard.documents
    return {
        "harvest_key": np.full(len(documents), key, dtype=np.int32),
        "document_id": [d.document.document_id for d in documents],
        "source": [d.document.source for d in documents],
        "split": [d.document.split for d in documents],
        "n_tokens": [len(d.token_ids) for d in documents],
        "whole": result.whole,
        "text": [d.document.text.encode("utf-8", "replace").decode("utf-8") for d in documents],
    }


def _window_columns(key: int, result: ShardResult, first: int) -> dict[str, Column]:
    documents = [result.shard.documents[i].document for i in result.window_document]
    return {
        "harvest_key": np.full(len(documents), key, dtype=np.int32),
        "window_id": np.arange(first, first + len(documents), dtype=np.int64),
        "document_id": [d.document_id for d in documents],
        "start": result.window_start,
        "split": [d.split for d in documents],
        "token_ids": [list(ids) for ids in result.window_ids],
        "tokens": [list(tokens) for tokens in result.window_tokens],
    }


def _activation_columns(key: int, nonzeros: Nonzeros, first_token: int) -> dict[str, Column]:
    return {
        "sae_key": np.full(len(nonzeros.feature), key, dtype=np.int32),
        "feature": nonzeros.feature,
        "token": nonzeros.token + first_token,
        "value": nonzeros.value,
    }


def _bin_columns(key: int, bins: Bins) -> dict[str, Column]:
    return {
        "sae_key": np.full(len(bins.feature), key, dtype=np.int32),
        "feature": bins.feature,
        "bin": bins.bin,
        "n": bins.n,
        "total": bins.total,
        "maximum": bins.maximum,
    }

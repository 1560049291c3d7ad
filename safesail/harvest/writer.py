"""Storing shards on a thread of its own while the next one runs."""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from safesail.harvest.activations import ShardResult
from safesail.store.bulk import Column
from safesail.store.connection import Db
from safesail.store.harvest import HarvestedShard, HarvestRecord, dropped_histograms, write_shard


class Writer:
    """Stores shards in the order in which they come, one at a time.

    No shard waits: beside the one that is stored there is only the one that runs, so memory stays flat.
    """

    def __init__(self, db: Db, record: HarvestRecord) -> None:
        self._db = db
        self._record = record
        self._n_ctx = int(record.settings["n_ctx"])
        self._shards = set(record.shards)
        self._dropped = dropped_histograms(db, record)
        self._pool = ThreadPoolExecutor(1, "store-writer")
        self._storing: Future[None] | None = None

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._wait()
        finally:
            self._pool.shutdown()

    def put(self, result: ShardResult) -> None:
        """Hand over a shard once the one before it is stored; raises what went wrong with that one."""
        self._wait()
        self._storing = self._pool.submit(self._write, result)

    def _wait(self) -> None:
        storing, self._storing = self._storing, None
        if storing is not None:
            storing.result()

    def _write(self, result: ShardResult) -> None:
        key, sae_keys, shard = self._record.key, self._record.sae_keys, result.shard
        rows = HarvestedShard(
            number=shard.number,
            content=shard.content,
            n_tokens=shard.n_tokens,
            documents=_document_columns(key, result),
            windows=_window_columns(key, result),
            first_slot=shard.first_window * self._n_ctx,
            nonzeros={sae_keys[sae_id]: run for sae_id, run in result.nonzeros.items()},
            dropped={sae_keys[sae_id]: h for sae_id, h in result.dropped.items()},
        )
        write_shard(self._db, key, rows)
        self._shards.add(shard.number)
        if rows.dropped:
            self._dropped.after_shard(self._shards)


def _document_columns(key: int, result: ShardResult) -> dict[str, Column]:
    documents = result.shard.documents
    return {
        "harvest_key": np.full(len(documents), key, dtype=np.int32),
        "document_id": [d.document.document_id for d in documents],
        "source": [d.document.source for d in documents],
        "split": [d.document.split for d in documents],
        "n_tokens": [len(d.token_ids) for d in documents],
        "whole": result.whole,
        "text": [d.document.text for d in documents],
    }


def _window_columns(key: int, result: ShardResult) -> dict[str, Column]:
    windows = result.windows
    return {
        "harvest_key": np.full(len(windows), key, dtype=np.int32),
        "window_id": np.array([w.window_id for w in windows], dtype=np.int64),
        "document_id": [w.document.document_id for w in windows],
        "start": [w.start for w in windows],
        "split": [w.document.split for w in windows],
        "token_ids": [list(w.token_ids) for w in windows],
        "tokens": [list(tokens) for tokens in result.window_tokens],
    }

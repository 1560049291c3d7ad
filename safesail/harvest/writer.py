"""Storing shards on a thread of its own while the next one runs."""

from queue import Queue
from threading import Thread

import numpy as np

from safesail.harvest.activations import Bins, Nonzeros, ShardResult
from safesail.store.bulk import Column
from safesail.store.connection import Db
from safesail.store.harvest import BinMerger, HarvestedShard, HarvestRecord, write_shard


class Writer:
    """Stores shards in the order in which they come, one at a time.

    No shard waits: beside the one that is stored there is only the one that runs, so memory stays flat.
    """

    def __init__(self, db: Db, record: HarvestRecord, n_ctx: int) -> None:
        self._db = db
        self._record = record
        self._n_ctx = n_ctx
        self._first_window = record.n_windows
        self._bins = BinMerger(db, list(record.sae_keys.values()))
        self._queue: Queue[ShardResult | None] = Queue(maxsize=1)
        self._fault: list[BaseException] = []
        self._thread = Thread(target=self._work, name="store-writer")

    def __enter__(self) -> "Writer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()
        self._raise_fault()

    def put(self, result: ShardResult) -> None:
        """Hand over a shard once the one before it is stored; raises what went wrong with that one."""
        self._queue.join()
        self._raise_fault()
        self._queue.put(result)

    def _raise_fault(self) -> None:
        if self._fault:
            raise self._fault.pop()

    def _work(self) -> None:
        failed = False
        while (result := self._queue.get()) is not None:
            try:
                if not failed:  # else drained: the main thread is about to raise the fault
                    self._write(result)
            except BaseException as fault:  # noqa: BLE001  handed to the main thread, which raises it
                failed = True
                self._fault.append(fault)
            finally:
                del result  # not held while the next one is waited for
                self._queue.task_done()

    def _write(self, result: ShardResult) -> None:
        first, key, sae_keys = self._first_window, self._record.key, self._record.sae_keys
        shard = HarvestedShard(
            number=result.shard.number,
            content=result.shard.content,
            n_tokens=result.shard.n_tokens,
            documents=_document_columns(key, result),
            windows=_window_columns(key, result, first),
            nonzeros={
                sae_keys[sae_id]: _nonzero_columns(n, first * self._n_ctx)
                for sae_id, n in result.nonzeros.items()
            },
            bins={sae_keys[sae_id]: _bin_columns(sae_keys[sae_id], b) for sae_id, b in result.bins.items()},
        )
        write_shard(self._db, key, shard)
        self._first_window = first + len(result.window_ids)
        self._bins.after_shard()


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


def _nonzero_columns(nonzeros: Nonzeros, first_token: int) -> dict[str, Column]:
    return {
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

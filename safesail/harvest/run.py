"""The harvest: plan, run, store, resume."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from time import perf_counter

from tqdm import tqdm

from safesail.errors import ConfigError, FingerprintError
from safesail.harvest.batch_size import SHARD_TOKENS, batch_tokens_of, fitting_shard_tokens
from safesail.harvest.config import HarvestConfig
from safesail.harvest.engine import Engine, run_here
from safesail.harvest.feature_list import Keep
from safesail.harvest.shards import Shard, cut_shards
from safesail.harvest.template import chat_prefix
from safesail.harvest.writer import Writer
from safesail.sae.protocol import SAE
from safesail.store.connection import Db, limited_memory
from safesail.store.harvest import (
    HarvestRecord,
    clear_staging,
    count_stored,
    drop_harvests,
    empty_splits,
    finish_harvest,
    open_harvest,
    read_harvest,
    set_sizes,
)
from safesail.subject.protocol import Subject
from safesail.text.documents import read_documents

STORE_MEGABYTES = 64
"""Memory that the store takes during a harvest; larger sorts go through the disk."""

_NOT_ROWS = {"batch_tokens", "memory_gb"}
"""Settings that change no row."""


@dataclass(frozen=True)
class HarvestReport:
    """What a harvest did."""

    harvest_id: str
    sae_ids: tuple[str, ...]
    n_documents: int
    n_tokens: int
    n_nonzeros: int
    """Nonzeros stored by this harvest, all runs of it together."""

    empty_splits: tuple[str, ...]
    """Of `train` and `test`, those without a document."""

    new_tokens: int
    """Tokens that this run put through the subject model: 0 when there was nothing left to do."""

    seconds: float


@dataclass(frozen=True)
class HarvestJob:
    """What to run: everything that decides which rows a harvest stores."""

    subject: Subject
    saes: Sequence[SAE]
    """SAEs of that model, at any of its hooks."""

    sources: Sequence[str]
    """Files, folders, `hf:NAME[:split]`, or `-` for standard input."""

    config: HarvestConfig
    keep: Keep | None = None
    """Features whose nonzeros are all kept, as `features_to_keep` gives them; needed unless `features` is `all`."""

    def __post_init__(self) -> None:
        if self.config.features != "all" and self.keep is None:
            raise ConfigError(f"features: {self.config.features} needs to be told which features to keep")

    @property
    def harvest_id(self) -> str:
        """Hash of model, number format, SAEs, sources and settings; batch sizes and machines do not enter."""
        keep = self.keep or {}
        body = {
            "model": self.subject.info.fingerprint,
            "saes": sorted((sae.info.sae_id, sae.info.sha256, sae.info.hook) for sae in self.saes),
            "sources": list(self.sources),
            # A size left open is written as what it always is on a CPU; what it is stands in the store.
            "settings": {
                **self.config.model_dump(exclude=_NOT_ROWS),
                "shard_tokens": self.config.shard_tokens or SHARD_TOKENS,
            },
            "keep": {sae_id: hashlib.sha256(kept.tobytes()).hexdigest() for sae_id, kept in keep.items()},
        }
        if (
            self.subject.info.dtype != "float32"
        ):  # what is not named is float32, as in stores of earlier versions
            body["dtype"] = self.subject.info.dtype
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]

    def shards(self) -> Iterator[Shard]:
        """All of the text, read anew each time."""
        config = self.config
        assert config.shard_tokens is not None, "the harvest has put a number in its place"
        documents = read_documents(self.sources, column=config.column, seed=config.seed)
        return cut_shards(
            documents,
            self.subject.tokenize,
            n_ctx=config.n_ctx,
            shard_tokens=config.shard_tokens,
            n_tokens=config.n_tokens,
        )

    def check(self) -> None:
        """Hold the settings against the subject model.

        Raises:
            ConfigError: a hook, a chat template or a length that the model does not have.
        """
        for sae in self.saes:
            self.subject.check_hook(sae.info.hook)
        most = self.subject.n_ctx_max - len(chat_prefix(self.subject, self.config))
        if self.config.n_ctx > most:
            raise ConfigError(
                f"n_ctx {self.config.n_ctx} is more than {self.subject.info.model_id} takes; use {most} or less"
            )


def run_harvest(
    db: Db, job: HarvestJob, *, engine: Engine | None = None, replace: bool = False, quiet: bool = False
) -> HarvestReport:
    """Run the subject model over the text and store the nonzero activations of every SAE, exactly once.

    A harvest that was killed goes on at its first unfinished shard; a finished one does nothing.

    Args:
        db: Store, open for writing.
        job: What to run; other settings are another harvest.
        engine: Where shards run; None: here.
        replace: Drop what the store holds of these SAEs from another harvest, or from text that changed since.
        quiet: No progress bar.

    Raises:
        ConfigError: nothing to read, a setting that does not fit, or the SAEs have another harvest here and
            `replace` is off.
        FingerprintError: the text changed since the harvest began, and `replace` is off.
        SubjectError: the subject model gives numbers that are not finite.
        DataError: the store cannot be written; what is stored so far is kept.
    """
    started = perf_counter()
    job.check()
    with limited_memory(db, STORE_MEGABYTES):
        record = _open(db, job, replace=replace)
        sized = _sized(db, record, job, runs_here=engine is None)
        if replace and not _reads_the_same(record, sized):
            drop_harvests(db, record.sae_keys)
            record = _open(db, job, replace=replace)
            sized = _sized(db, record, job, runs_here=engine is None)
        new_tokens = 0
        if not record.finished:
            new_tokens = _run_shards(db, record, sized, engine or run_here, quiet=quiet)
            record = _finish(db, record, sized)
        else:
            clear_staging(db, record)
            # A pipe has no name by which its text is known.
            if "-" in job.sources and not _reads_the_same(record, sized):
                raise _changed("standard input holds other text")
        documents, nonzeros = count_stored(db, record)
        empty = empty_splits(db, record)
    return HarvestReport(
        harvest_id=job.harvest_id,
        sae_ids=tuple(sae.info.sae_id for sae in job.saes),
        n_documents=documents,
        n_tokens=record.n_tokens,
        n_nonzeros=nonzeros,
        empty_splits=empty,
        new_tokens=new_tokens,
        seconds=perf_counter() - started,
    )


def _open(db: Db, job: HarvestJob, *, replace: bool) -> HarvestRecord:
    infos = [sae.info for sae in job.saes]
    settings = {**job.config.model_dump(), "dtype": job.subject.info.dtype}
    return open_harvest(db, job.harvest_id, job.subject.info, infos, settings, replace=replace)


def _finish(db: Db, record: HarvestRecord, job: HarvestJob) -> HarvestRecord:
    record = read_harvest(db, record.key, record.sae_keys)
    if record.n_tokens == 0:
        raise ConfigError(f"no text in {', '.join(job.sources)}")
    d_sae = {sae.info.sae_id: sae.info.d_sae for sae in job.saes}
    finish_harvest(db, record, d_sae, job.config.precision)
    return record


def _run_shards(db: Db, record: HarvestRecord, job: HarvestJob, engine: Engine, *, quiet: bool) -> int:
    """Run and store every shard that is not stored yet; returns the tokens run."""
    new_tokens = 0
    with (
        Writer(db, record) as writer,
        tqdm(
            desc="harvest", unit="tok", total=job.config.n_tokens, initial=record.n_tokens, disable=quiet
        ) as bar,
    ):
        missing = _missing(record, job.shards())
        # Closed at once where the writer fails: workers elsewhere must not run on.
        with closing(engine((job.subject, job.saes), missing, job.config, job.keep)) as results:
            for result in results:
                writer.put(result)
                new_tokens += result.shard.n_tokens
                bar.update(result.shard.n_tokens)
                del result  # not held while the next shard runs
    return new_tokens


def _sized(db: Db, record: HarvestRecord, job: HarvestJob, *, runs_here: bool) -> HarvestJob:
    """The job with the sizes of its shards and batches: as given, as this harvest began with, or as fits.

    Where shards run elsewhere, each worker finds the size of its batches.
    """
    config, stored = job.config, record.settings
    shard_tokens = (
        stored["shard_tokens"]
        or config.shard_tokens
        or fitting_shard_tokens(job.subject.device, [sae.info for sae in job.saes])
    )
    sized = config.model_copy(update={"shard_tokens": shard_tokens})
    batch_tokens = stored["batch_tokens"] if config.batch_tokens in (None, "auto") else config.batch_tokens
    if not isinstance(batch_tokens, int) and runs_here and not record.finished:
        batch_tokens = batch_tokens_of(sized, job.subject, job.saes)
    if (shard_tokens, batch_tokens) != (stored["shard_tokens"], stored["batch_tokens"]):
        set_sizes(db, record, shard_tokens=shard_tokens, batch_tokens=batch_tokens)
    return replace_fields(job, config=sized.model_copy(update={"batch_tokens": batch_tokens}))


def _missing(record: HarvestRecord, shards: Iterable[Shard]) -> Iterator[Shard]:
    """Shards that are not stored yet.

    Raises:
        FingerprintError: a stored shard holds other documents than the text does now.
    """
    n_read = 0
    for shard in shards:
        n_read += 1
        if shard.number not in record.shards:
            yield shard
        elif record.shards[shard.number] != shard.content:
            raise _changed(f"shard {shard.number} reads other documents")
    if record.shards and max(record.shards) >= n_read:
        raise _changed(f"it has {n_read} shards, and {max(record.shards) + 1} are stored")


def _changed(how: str) -> FingerprintError:
    return FingerprintError(
        f"the text changed since this harvest began ({how}); restore it, or start again with --replace"
    )


def _reads_the_same(record: HarvestRecord, job: HarvestJob) -> bool:
    if not record.shards:
        return True
    try:
        missing = sum(1 for _ in _missing(record, job.shards()))
    except FingerprintError:
        return False
    return not (record.finished and missing)

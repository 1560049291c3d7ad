"""Rank SAEs by how well single features isolate concepts: one pass of the subject model for all of them."""

import hashlib
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from safesail.domain.records import Concept, SubjectInfo
from safesail.errors import ConfigError
from safesail.sae.protocol import SAE
from safesail.selection.activity import ActivityHistogram, text_maxima
from safesail.selection.batches import Batch, Chunk, cut_chunks, tokenize_pairs
from safesail.selection.concepts import concept_set_hash
from safesail.selection.config import SelectionConfig
from safesail.selection.core import ConceptResult, Scorer
from safesail.selection.encode import Encoder, TextActs
from safesail.selection.figures import score_rows
from safesail.selection.result import SelectionResult, read_result
from safesail.store.bulk import Column
from safesail.store.concepts import write_concepts
from safesail.store.connection import Db
from safesail.store.registry import finish_run, register_sae, register_subject, start_run
from safesail.store.selection import SelectionRow, finished_selections, write_selection
from safesail.subject.model import SubjectModel

_FORMAT = 1
"""Goes into every selection id: to be raised when the figures themselves change."""


def select(
    db: Db,
    subject: SubjectModel,
    saes: Sequence[SAE],
    concepts: Sequence[Concept],
    config: SelectionConfig,
    *,
    quiet: bool,
) -> SelectionResult:
    """Score SAEs on concept pairs and record what was found; SAEs scored before are not run again.

    The subject model sees every text once, whatever the number of SAEs, and no LLM is asked.

    Args:
        db: The open store.
        subject: The subject model.
        saes: Candidates, at any of its hooks.
        concepts: The concept set.
        config: Settings.
        quiet: No progress bar.

    Raises:
        ConfigError: no SAE, two of one name, an unknown hook, or a text that does not fit the model.
        SaeError: an SAE was trained for activations of another size.
        FingerprintError: the store knows another model or SAE under one of these names.
    """
    _check_names(saes)
    ids = {sae.info.sae_id: selection_id(subject.info, sae, concepts, config) for sae in saes}
    finished = finished_selections(db, ids.values())
    pending = [sae for sae in saes if ids[sae.info.sae_id] not in finished]
    # Refuses what does not fit before anything is written.
    run = _Pass(subject, pending, concepts, config) if pending else None
    register_subject(db, subject.info)
    for sae in saes:
        register_sae(db, sae.info)
    write_concepts(db, concepts)
    seconds = {"model": 0.0, "encode": 0.0, "contrast": 0.0}
    n_tokens = 0
    if run is not None:
        run_id = start_run(db, "selection", config.model_dump())
        run.go(quiet=quiet)
        for sae in pending:
            run.record(db, sae, ids[sae.info.sae_id])
        finish_run(db, run_id)
        seconds, n_tokens = run.seconds, run.n_tokens
    new = frozenset(sae.info.sae_id for sae in pending)
    return read_result(db, ids, new=new, n_tokens=n_tokens, seconds=seconds)


def selection_id(subject: SubjectInfo, sae: SAE, concepts: Sequence[Concept], config: SelectionConfig) -> str:
    """Identity of one SAE's selection: everything that can change its figures, and nothing else."""
    body = {
        "format": _FORMAT,
        "model": subject.fingerprint,
        "sae": [sae.info.sae_id, sae.info.sha256, sae.info.hook],
        "concepts": concept_set_hash(concepts),
        "settings": _settings(config),
    }
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def _settings(config: SelectionConfig) -> dict[str, Any]:
    """Settings that can change a figure."""
    return config.model_dump(mode="json", exclude={"batch_tokens"})


def _check_names(saes: Sequence[SAE]) -> None:
    names = [sae.info.sae_id for sae in saes]
    if not names:
        raise ConfigError("no SAE to select from; name folders or releases with --sae")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two SAEs are called {twice[0]!r}; rename one of them")


@dataclass(frozen=True)
class _Spill:
    """Texts' maxima of one SAE, kept on disk until its thresholds are known."""

    folder: Path
    histogram: ActivityHistogram

    def save(self, number: int, acts: TextActs) -> None:
        self.histogram.add(acts.feature, acts.value)
        with (self.folder / f"{number}.npz").open("wb") as file:
            np.savez(file, text=acts.text, feature=acts.feature, value=acts.value)

    def load(self, number: int) -> TextActs:
        with np.load(self.folder / f"{number}.npz") as columns:
            return TextActs(columns["text"], columns["feature"], columns["value"])


class _Pass:
    """One pass over the pairs for the SAEs that have no figures yet."""

    def __init__(
        self, subject: SubjectModel, saes: Sequence[SAE], concepts: Sequence[Concept], config: SelectionConfig
    ) -> None:
        self._concepts, self._config, self._saes = concepts, config, saes
        self._encoder = Encoder(subject, saes)
        self._encoder.check()
        pairs = tokenize_pairs(concepts, subject.tokenize, subject.n_ctx_max, config)
        self._chunks: list[Chunk] = cut_chunks(pairs, config.batch_tokens)
        self.n_tokens = sum(len(p.pos) + len(p.neg) for own in pairs for p in own)
        self._scorers = {s.info.sae_id: Scorer(s.info.d_sae, concepts, config) for s in saes}
        self._contrast = dict.fromkeys(self._scorers, 0.0)

    @property
    def seconds(self) -> dict[str, float]:
        """Where the time went."""
        return {
            "model": self._encoder.model_seconds,
            "encode": sum(tally.seconds for tally in self._encoder.tallies.values()),
            "contrast": sum(self._contrast.values()),
        }

    def go(self, *, quiet: bool) -> None:
        """Run the subject model and score every SAE."""
        if self._config.activity_quantile is None:
            self._go_at_zero(quiet=quiet)
        else:
            self._go_at_quantile(self._config.activity_quantile, quiet=quiet)

    def record(self, db: Db, sae: SAE, identity: str) -> None:
        """Write one SAE's figures to the store."""
        name = sae.info.sae_id
        results = self._scorers[name].results
        row = SelectionRow(
            selection_id=identity,
            sae_id=name,
            concept_set=concept_set_hash(self._concepts),
            settings=_settings(self._config),
            l0=self._encoder.l0(sae),
            fvu=self._encoder.fvu(sae),
            seconds=self._encoder.tallies[name].seconds + self._contrast[name],
        )
        write_selection(db, row, score_rows(results, self._config.controls), feature_columns(results))

    def _go_at_zero(self, *, quiet: bool) -> None:
        with self._progress(quiet=quiet) as bar:
            for chunk in self._chunks:
                for batch in chunk.batches:
                    for sae, acts in self._encoder.encode(batch):
                        self._add(sae, batch, acts, None)
                    bar.update()
                for sae in self._saes:
                    self._close(sae, chunk)

    def _go_at_quantile(self, q: float, *, quiet: bool) -> None:
        """Thresholds are known only at the end, so activations wait on disk: the model still runs once."""
        with tempfile.TemporaryDirectory(prefix="safesail-") as root, self._progress(quiet=quiet) as bar:
            spills: dict[str, _Spill] = {}
            for i, sae in enumerate(self._saes):
                (Path(root) / str(i)).mkdir()
                spills[sae.info.sae_id] = _Spill(Path(root) / str(i), ActivityHistogram(sae.info.d_sae))
            batches = [batch for chunk in self._chunks for batch in chunk.batches]
            for number, batch in enumerate(batches):
                for sae, acts in self._encoder.encode(batch):
                    spills[sae.info.sae_id].save(number, acts)
                bar.update()
            for sae in self._saes:
                self._replay(sae, spills[sae.info.sae_id], q)

    def _replay(self, sae: SAE, spill: _Spill, q: float) -> None:
        above = spill.histogram.quantile(q)
        number = 0
        for chunk in self._chunks:
            for batch in chunk.batches:
                self._add(sae, batch, spill.load(number), above)
                number += 1
            self._close(sae, chunk)

    def _add(self, sae: SAE, batch: Batch, acts: TextActs, above: np.ndarray | None) -> None:
        started = time.perf_counter()
        n_texts = 2 * len(batch.pairs)
        maxima = text_maxima(acts.text, acts.feature, acts.value, n_texts, sae.info.d_sae)
        self._scorers[sae.info.sae_id].add(batch, maxima > (0 if above is None else above))
        self._contrast[sae.info.sae_id] += time.perf_counter() - started

    def _close(self, sae: SAE, chunk: Chunk) -> None:
        started = time.perf_counter()
        self._scorers[sae.info.sae_id].close(chunk.concepts)
        self._contrast[sae.info.sae_id] += time.perf_counter() - started

    def _progress(self, *, quiet: bool) -> "tqdm[Any]":
        n_batches = sum(len(chunk.batches) for chunk in self._chunks)
        return tqdm(total=n_batches, desc="select", unit="batch", disable=quiet)


def feature_columns(results: Sequence[ConceptResult]) -> dict[str, Column]:
    """Columns of the store's `feature_concepts`."""
    sizes = [len(result.features.feature) for result in results]
    return {
        "feature": np.concatenate([r.features.feature for r in results]),
        "concept_id": [r.concept_id for r, n in zip(results, sizes, strict=True) for _ in range(n)],
        "frequency": np.concatenate([r.features.frequency for r in results]),
        "swapped": np.concatenate([r.features.swapped for r in results]),
        "n_pairs": np.repeat([r.n_pairs for r in results], sizes),
        "candidate": np.concatenate([r.features.candidate for r in results]),
    }

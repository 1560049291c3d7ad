"""The one pass over the pairs: subject model, SAEs and figures, kept chunk by chunk."""

import tempfile
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from safesail.domain.records import Concept
from safesail.errors import SaeError
from safesail.sae.encode import EncodedRows, SparseColumns, Spread, encode_rows
from safesail.sae.protocol import SAE
from safesail.selection.activity import ActivityHistogram, text_maxima
from safesail.selection.batches import Batch, Chunk, cut_chunks, tokenize_pairs
from safesail.selection.config import SelectionConfig
from safesail.selection.core import Scorer
from safesail.selection.parts import Part, Tally, part_name
from safesail.store.staging import clear, has_part
from safesail.subject.protocol import Subject

CLOCKS: tuple[str, ...] = ("model", "encode", "contrast")
"""What time is counted by: the model's forward passes, all SAEs, the figures."""


@dataclass
class _OpenPart:
    """One SAE on one chunk of concepts, while its batches come."""

    sae: SAE
    scorer: Scorer
    tally: Tally = field(default_factory=Tally)
    spread: Spread | None = None
    seconds: float = 0.0
    """Spent on figures."""

    def count(self, encoded: EncodedRows) -> SparseColumns:
        """Take in the counts of a batch; the SAE's activations on it."""
        acts = encoded.by_sae[self.sae.info.sae_id]
        own = encoded.spreads[self.sae.info.hook]
        self.spread = own if self.spread is None else self.spread + own
        self.tally += Tally(encoded.n_tokens, len(acts.value), acts.squared_error or 0.0, acts.seconds)
        return acts

    def score(self, batch: Batch, acts: SparseColumns, above: Any = 0) -> None:
        """Take in which features fire on a batch: those with an activation larger than `above`."""
        started = time.perf_counter()
        n_texts, d_sae = 2 * len(batch.pairs), self.sae.info.d_sae
        maxima = text_maxima(acts.row, acts.feature, acts.value, n_texts, d_sae)
        self.scorer.add(batch, maxima, above)
        self.seconds += time.perf_counter() - started


class Pass:
    """One pass over the pairs for the SAEs that have no figures yet.

    What it measures is kept in `folder` chunk by chunk, so that a pass that was killed goes on where it was.
    """

    def __init__(
        self,
        subject: Subject,
        saes: Mapping[str, SAE],
        concepts: Sequence[Concept],
        config: SelectionConfig,
        folder: Path,
    ) -> None:
        """`saes` by the identity of their selections."""
        self._subject, self._concepts, self._config = subject, concepts, config
        check_sizes(subject, list(saes.values()))
        pairs = tokenize_pairs(concepts, subject.tokenize, subject.n_ctx_max, config)
        self._chunks = {part_name(c, concepts): c for c in cut_chunks(pairs, config.batch_tokens)}
        self._saes = list(saes.values())
        self._folders = {sae.info.sae_id: folder / identity for identity, sae in saes.items()}
        self.seconds = dict.fromkeys(CLOCKS, 0.0)
        """Where the time went."""

        self.n_tokens = 0
        """Those that went through the subject model."""

    def go(self, *, quiet: bool) -> None:
        """Run the subject model and score every SAE."""
        n_batches = sum(len(chunk.batches) for chunk in self._chunks.values())
        with tqdm(total=n_batches, desc="select", unit="batch", disable=quiet) as bar:
            if self._config.activity_quantile is None:
                self._go_at_zero(bar)
            else:
                self._go_at_quantile(self._config.activity_quantile, bar)

    @contextmanager
    def clock(self, name: str) -> Generator[None, None, None]:
        """Adds what is done inside to `seconds`."""
        started = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - started

    def parts(self, sae: SAE) -> Iterator[Part]:
        """What was measured of one SAE; read anew each time, so that no more than one part is held."""
        return (Part.load(self._folders[sae.info.sae_id], part) for part in self._chunks)

    def _go_at_zero(self, bar: "tqdm[Any]") -> None:
        for name, chunk in self._chunks.items():
            saes = [sae for sae in self._saes if not has_part(self._folders[sae.info.sae_id], name)]
            parts = [self._open(sae) for sae in saes]
            for batch in chunk.batches:
                if parts:
                    encoded = self._encode(saes, batch)
                    for part in parts:
                        part.score(batch, part.count(encoded))
                bar.update()
            for part in parts:
                self._close(part, name, chunk)

    def _go_at_quantile(self, q: float, bar: "tqdm[Any]") -> None:
        """Thresholds are known only at the end, so activations wait on disk: the model still runs once."""
        for folder in self._folders.values():
            clear(folder)  # of no use without the activations, which are gone
        histograms = [ActivityHistogram(sae.info.d_sae) for sae in self._saes]
        opened = {name: [self._open(sae) for sae in self._saes] for name in self._chunks}
        with tempfile.TemporaryDirectory(prefix="safesail-") as root:
            for name, chunk in self._chunks.items():
                for number, batch in enumerate(chunk.batches):
                    encoded = self._encode(self._saes, batch)
                    for i, part in enumerate(opened[name]):
                        acts = part.count(encoded)
                        histograms[i].add(acts.feature, acts.value)
                        _save(Path(root) / f"{i}-{name}-{number}.npz", acts)
                    bar.update()
            for i, histogram in enumerate(histograms):
                above = histogram.quantile(q)
                for name, chunk in self._chunks.items():
                    for number, batch in enumerate(chunk.batches):
                        opened[name][i].score(batch, _load(Path(root) / f"{i}-{name}-{number}.npz"), above)
                    self._close(opened[name][i], name, chunk)

    def _open(self, sae: SAE) -> _OpenPart:
        return _OpenPart(sae, Scorer(sae.info.d_sae, self._concepts, self._config))

    def _encode(self, saes: Sequence[SAE], batch: Batch) -> EncodedRows:
        encoded = encode_rows(self._subject, saes, batch.rows, measure=True)
        self.seconds["model"] += encoded.model_seconds
        self.n_tokens += encoded.n_tokens
        return encoded

    def _close(self, part: _OpenPart, name: str, chunk: Chunk) -> None:
        started = time.perf_counter()
        info = part.sae.info
        spread = part.spread or Spread(0, np.zeros(info.d_in), 0.0)  # of a chunk without pairs
        results = part.scorer.close(chunk.concepts)
        measured = Part.of(results, self._config.draws, part.tally, spread)
        seconds = part.seconds + time.perf_counter() - started
        self.seconds["encode"] += part.tally.seconds
        self.seconds["contrast"] += seconds
        replace(measured, seconds=seconds).save(self._folders[info.sae_id], name)


_COLUMNS = ("row", "position", "feature", "value")
"""Of `SparseColumns`, in order."""


def _save(path: Path, acts: SparseColumns) -> None:
    with path.open("wb") as file:
        np.savez(file, **{column: getattr(acts, column) for column in _COLUMNS})


def _load(path: Path) -> SparseColumns:
    with np.load(path) as columns:
        return SparseColumns(*(columns[column] for column in _COLUMNS), squared_error=None, seconds=0.0)


def check_sizes(subject: Subject, saes: Sequence[SAE]) -> None:
    """Hold hooks and sizes against the subject model before any work is done.

    Raises:
        ConfigError: the subject model has no such hook.
        SaeError: an SAE reads activations of another size.
    """
    hooks = list(dict.fromkeys(sae.info.hook for sae in saes))
    activations = subject.run(torch.zeros((1, 1), dtype=torch.long), capture=hooks).activations
    for sae in saes:
        size = activations[sae.info.hook].shape[-1]
        if size != sae.info.d_in:
            raise SaeError(
                f"SAE {sae.info.sae_id!r} reads {sae.info.d_in} numbers, {sae.info.hook} of"
                f" {subject.info.model_id} has {size}; it was trained for another model or hook"
            )

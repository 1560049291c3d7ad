"""The one pass over the pairs: subject model, SAEs and figures, kept chunk by chunk."""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from safesail.domain.records import Concept
from safesail.sae.encode import SparseColumns
from safesail.sae.protocol import SAE
from safesail.selection.activity import ActivityHistogram, text_maxima
from safesail.selection.batches import Batch, cut_chunks, tokenize_pairs
from safesail.selection.config import SelectionConfig
from safesail.selection.core import Scorer
from safesail.selection.encode import Encoder
from safesail.selection.parts import Part, part_name
from safesail.store.staging import clear, has_part
from safesail.subject.protocol import Subject

CLOCKS: tuple[str, ...] = ("model", "encode", "contrast")
"""What time is counted by: the model's forward passes, all SAEs, the figures."""

_COLUMNS = ("row", "position", "feature", "value")
"""Of `SparseColumns`, in order."""


@dataclass(frozen=True)
class _Spill:
    """Texts' maxima of one SAE, kept on disk until its thresholds are known."""

    folder: Path
    histogram: ActivityHistogram

    def save(self, name: str, acts: SparseColumns) -> None:
        self.histogram.add(acts.feature, acts.value)
        with (self.folder / f"{name}.npz").open("wb") as file:
            np.savez(file, **{column: getattr(acts, column) for column in _COLUMNS})

    def load(self, name: str) -> SparseColumns:
        with np.load(self.folder / f"{name}.npz") as columns:
            return SparseColumns(*(columns[column] for column in _COLUMNS), squared_error=None, seconds=0.0)


class Pass:
    """One pass over the pairs for the SAEs that have no figures yet.

    What it finds is kept in `folder` chunk by chunk, so that a pass that was killed goes on where it was.
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
        Encoder(subject, list(saes.values())).check()
        pairs = tokenize_pairs(concepts, subject.tokenize, subject.n_ctx_max, config)
        self._chunks = {part_name(c, concepts): c for c in cut_chunks(pairs, config.batch_tokens)}
        self._saes = {sae.info.sae_id: sae for sae in saes.values()}
        self._folders = {sae.info.sae_id: folder / identity for identity, sae in saes.items()}
        self._scorers = {name: Scorer(sae.info.d_sae, concepts, config) for name, sae in self._saes.items()}
        self._contrast = dict.fromkeys(self._saes, 0.0)
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

    def parts(self, sae: SAE) -> Iterator[Part]:
        """What was found of one SAE; read anew each time, so that no more than one part is held."""
        return (Part.load(self._folders[sae.info.sae_id], part) for part in self._chunks)

    def _go_at_zero(self, bar: "tqdm[Any]") -> None:
        for part, chunk in self._chunks.items():
            saes = [sae for name, sae in self._saes.items() if not has_part(self._folders[name], part)]
            if not saes:
                bar.update(len(chunk.batches))
                continue
            encoder = Encoder(self._subject, saes)
            for batch in chunk.batches:
                for sae, acts in self._encode(encoder, batch):
                    self._add(sae, batch, acts, None)
                bar.update()
            for sae in saes:
                self._close(sae, part, encoder)

    def _go_at_quantile(self, q: float, bar: "tqdm[Any]") -> None:
        """Thresholds are known only at the end, so activations wait on disk: the model still runs once."""
        for folder in self._folders.values():
            clear(folder)  # of no use without the activations, which are gone
        with tempfile.TemporaryDirectory(prefix="safesail-") as root:
            spills: dict[str, _Spill] = {}
            for i, (name, sae) in enumerate(self._saes.items()):
                (Path(root) / str(i)).mkdir()
                spills[name] = _Spill(Path(root) / str(i), ActivityHistogram(sae.info.d_sae))
            encoders: dict[str, Encoder] = {}
            for part, chunk in self._chunks.items():
                encoders[part] = Encoder(self._subject, list(self._saes.values()))
                for number, batch in enumerate(chunk.batches):
                    for sae, acts in self._encode(encoders[part], batch):
                        spills[sae.info.sae_id].save(f"{part}-{number}", acts)
                    bar.update()
            for name, sae in self._saes.items():
                self._replay(sae, spills[name], q, encoders)

    def _replay(self, sae: SAE, spill: _Spill, q: float, encoders: Mapping[str, Encoder]) -> None:
        above = spill.histogram.quantile(q)
        for part, chunk in self._chunks.items():
            for number, batch in enumerate(chunk.batches):
                self._add(sae, batch, spill.load(f"{part}-{number}"), above)
            self._close(sae, part, encoders[part])

    def _encode(self, encoder: Encoder, batch: Batch) -> Iterator[tuple[SAE, SparseColumns]]:
        before = encoder.model_seconds
        found = encoder.encode(batch)
        self.seconds["model"] += encoder.model_seconds - before
        self.n_tokens += sum(map(len, batch.rows))
        return ((self._saes[name], acts) for name, acts in found.items())

    def _add(self, sae: SAE, batch: Batch, acts: SparseColumns, above: np.ndarray | None) -> None:
        started = time.perf_counter()
        n_texts = 2 * len(batch.pairs)
        maxima = text_maxima(acts.row, acts.feature, acts.value, n_texts, sae.info.d_sae)
        self._scorers[sae.info.sae_id].add(batch, maxima > (0 if above is None else above))
        self._contrast[sae.info.sae_id] += time.perf_counter() - started

    def _close(self, sae: SAE, part: str, encoder: Encoder) -> None:
        started = time.perf_counter()
        name = sae.info.sae_id
        results = self._scorers[name].close(self._chunks[part].concepts)
        tally, spread = encoder.tallies[name], encoder.spreads[sae.info.hook]
        found = Part.of(results, self._config.draws, tally, spread)
        seconds = self._contrast[name] + time.perf_counter() - started
        self._contrast[name] = 0.0
        self.seconds["encode"] += tally.seconds
        self.seconds["contrast"] += seconds
        replace(found, seconds=seconds).save(self._folders[name], part)

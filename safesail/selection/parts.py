"""What a pass measures of one SAE on one chunk of concepts: computed once, kept beside the store, added up then."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from safesail.domain.records import Concept
from safesail.metrics.contrast import MEASURES
from safesail.sae.encode import Spread
from safesail.selection.batches import Chunk
from safesail.selection.core import ConceptResult
from safesail.selection.figures import Sums, concept_rows
from safesail.selection.texts import PairTexts
from safesail.store.selection import ScoreRow
from safesail.store.staging import read_part, write_part
from safesail.version import __version__

_TABLES = ("value", "null", "value_draws", "above_draws")
"""The arrays of `Sums`."""


@dataclass(frozen=True)
class Tally:
    """Counts of one SAE over some batches."""

    n_tokens: int = 0
    n_active: int = 0
    residual: float = 0.0
    """Sum of squared reconstruction errors."""

    seconds: float = 0.0
    """Encoding and decoding."""

    def __add__(self, other: Self) -> Self:
        return replace(self, **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    @property
    def l0(self) -> float:
        """Mean active features per token."""
        return self.n_active / self.n_tokens

    def fvu(self, spread: Spread) -> float | None:
        """Fraction of variance unexplained about the mean; None where nothing varies."""
        return self.residual / spread.about_mean if spread.about_mean > 0 else None


@dataclass(frozen=True)
class Part:
    """One SAE on one chunk. Its size depends on the chunk, and the pass holds one at a time."""

    rows: Sequence[ScoreRow]
    """Figures of its concepts."""

    features: Mapping[str, NDArray[Any]]
    """Columns of the store's `feature_concepts`: every feature that fires on one side alone of any pair."""

    texts: Mapping[str, PairTexts]
    """What readouts are chosen from, by concept."""

    domains: Mapping[str, Sums]
    """Its concepts' figures, added up by domain."""

    tally: Tally
    spread: Spread
    seconds: float = 0.0
    """Spent on figures."""

    @classmethod
    def of(cls, results: Iterable[ConceptResult], draws: int, tally: Tally, spread: Spread) -> Self:
        """Take in a chunk's concepts, one after the other."""
        rows: list[ScoreRow] = []
        domains: dict[str, Sums] = {}
        features: list[dict[str, NDArray[Any]]] = []
        texts: dict[str, PairTexts] = {}
        for result in results:
            texts[result.concept_id] = result.texts
            sums = Sums.of(result, draws)
            rows += concept_rows(result, sums)
            domains = _added(domains, {result.domain: sums})
            n = len(result.features.feature)
            about = {
                "concept_id": np.repeat(result.concept_id, n),
                "n_pairs": np.repeat(np.int32(result.n_pairs), n),
            }
            features.append({**vars(result.features), **about})
        columns = {name: np.concatenate([own[name] for own in features]) for name in features[0]}
        return cls(rows, columns, texts, domains, tally, spread)

    def __add__(self, other: Self) -> Self:
        """Two chunks as one, without the rows, features and texts, of which nothing is to be added up."""
        return replace(
            self,
            rows=(),
            features={},
            texts={},
            domains=_added(self.domains, other.domains),
            tally=self.tally + other.tally,
            spread=self.spread + other.spread,
            seconds=self.seconds + other.seconds,
        )

    def save(self, folder: Path, name: str) -> None:
        """Keep it, whole and on disk when this returns."""
        sums = list(self.domains.values())
        text = {
            "rows": [astuple(row) for row in self.rows],
            "domains": list(self.domains),
            "sums": [{k: v for k, v in vars(s).items() if k not in _TABLES} for s in sums],
            "tally": asdict(self.tally),
            "spread": {"n": self.spread.n, "squares": self.spread.squares},
            "texts": {concept_id: texts.d_sae for concept_id, texts in self.texts.items()},
            "seconds": self.seconds,
        }
        tables = {f"sums/{table}": np.stack([getattr(s, table) for s in sums]) for table in _TABLES}
        columns = {f"features/{key}": column for key, column in self.features.items()}
        texts = {
            f"texts/{i}/{key}": column
            for i, own in enumerate(self.texts.values())
            for key, column in own.arrays().items()
        }
        write_part(folder, name, text, {**tables, **columns, **texts, "spread/total": self.spread.total})

    @classmethod
    def load(cls, folder: Path, name: str) -> Self:
        """A part that was kept.

        Raises:
            DataError: it is missing or broken.
        """
        text, arrays = read_part(folder, name)
        domains = {
            domain: Sums(**{**text["sums"][i], "reasons": tuple(text["sums"][i]["reasons"])},
                         **{table: arrays[f"sums/{table}"][i] for table in _TABLES})
            for i, domain in enumerate(text["domains"])
        }  # fmt: skip
        return cls(
            rows=[ScoreRow(*row) for row in text["rows"]],
            features={k.removeprefix("features/"): v for k, v in arrays.items() if k.startswith("features/")},
            texts={
                concept_id: PairTexts(
                    d_sae, *(arrays[f"texts/{i}/{key}"] for key in ("starts", "feature", "value", "priority"))
                )
                for i, (concept_id, d_sae) in enumerate(text["texts"].items())
            },
            domains=domains,
            tally=Tally(**text["tally"]),
            spread=Spread(**text["spread"], total=arrays["spread/total"]),
            seconds=text["seconds"],
        )


def part_name(chunk: Chunk, concepts: Sequence[Concept]) -> str:
    """Identity of what a selection computes for a chunk.

    A selection's own identity leaves out the order of concepts and the size of batches. They change no figure, but
    they change which concepts a part is about, and the last digits of sums.
    """
    body = [
        [__version__, *MEASURES],
        [concepts[number].concept_id for number in chunk.concepts],
        [batch.rows for batch in chunk.batches],
    ]
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()[:16]


def _added(some: Mapping[str, Sums], more: Mapping[str, Sums]) -> dict[str, Sums]:
    return {**some, **{domain: some[domain] + own if domain in some else own for domain, own in more.items()}}

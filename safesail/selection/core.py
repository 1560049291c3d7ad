"""From the features that fire on pairs to an SAE's figures. Numbers only: no model, no store."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from safesail.domain.ids import content_id
from safesail.domain.records import Concept
from safesail.domain.undefined import Undefined
from safesail.metrics.contrast import (
    MEASURES,
    Contrast,
    OneSided,
    contrast,
    join,
    null_draws,
    one_sided,
    p_value,
)
from safesail.selection.batches import Batch
from safesail.selection.config import SelectionConfig


@dataclass(frozen=True)
class FeatureColumns:
    """The features that tell one concept from its absence, in columns of one length."""

    feature: NDArray[np.int32]
    frequency: NDArray[np.float64]
    """Share of pairs in which the feature fires on q+ only."""

    swapped: NDArray[np.float64]
    """Share in which it fires on q- only."""

    candidate: NDArray[np.bool_]


@dataclass(frozen=True)
class ConceptResult:
    """One SAE on one concept."""

    concept_id: str
    domain: str
    n_pairs: int
    figures: "Figures | Undefined"
    features: FeatureColumns


@dataclass(frozen=True)
class Figures:
    """A concept's contrast, until it is added to the sums of its domain: 70 kB with 400 draws."""

    value: Float[np.ndarray, " n_measures"]
    null: Float[np.ndarray, " n_measures"]
    value_draws: Float[np.ndarray, "draws n_measures"]
    above_draws: Float[np.ndarray, "draws n_measures"]
    held_out: Float[np.ndarray, " n_pairs"]
    gaps: Int[np.ndarray, " n_pairs"]
    """Tokens of q+ minus tokens of q-."""

    p: float
    """Chance of this I_CDF or a larger one if the sides of the pairs meant nothing."""


@dataclass
class Scorer:
    """Takes in the firing of one SAE, batch by batch, and closes concepts as soon as they are complete.

    Between chunks it holds nothing.
    """

    d_sae: int
    concepts: Sequence[Concept]
    config: SelectionConfig
    _parts: dict[int, list[OneSided]] = field(init=False, default_factory=lambda: defaultdict(list))
    _gaps: dict[int, list[NDArray[np.int64]]] = field(init=False, default_factory=lambda: defaultdict(list))

    def add(self, batch: Batch, fires: Bool[np.ndarray, "n_texts d_sae"]) -> None:
        """Take in which features fire on each row of a batch."""
        pos, neg = fires[0::2], fires[1::2]
        concepts, gaps = batch.concepts, batch.gaps
        for concept in np.unique(concepts):
            own = concepts == concept
            self._parts[int(concept)].append(one_sided(pos[own], neg[own]))
            self._gaps[int(concept)].append(gaps[own])

    def close(self, concepts: Sequence[int]) -> Iterator[ConceptResult]:
        """The figures of concepts whose pairs have all been added, one after the other; their firing is forgotten."""
        for number in concepts:
            concept = self.concepts[number]
            parts, gaps = self._parts.pop(number, []), self._gaps.pop(number, [])
            nothing = one_sided(np.zeros((0, self.d_sae), bool), np.zeros((0, self.d_sae), bool))
            sides = join(parts) if parts else nothing
            # Keyed by concept, so that a concept's resamples do not depend on the others, and SAEs share them.
            rng = np.random.default_rng([self.config.seed, int(content_id(concept.concept_id), 16)])
            found = contrast(sides, draws=self.config.draws, rng=rng)
            features = _no_features() if isinstance(found, Undefined) else features_of(found, self.config)
            figures = found if isinstance(found, Undefined) else self._figures(sides, found, gaps, rng)
            yield ConceptResult(concept.concept_id, concept.domain, sides.n_pairs, figures, features)

    def _figures(
        self, sides: OneSided, found: Contrast, gaps: list[NDArray[np.int64]], rng: np.random.Generator
    ) -> Figures:
        i_cdf = MEASURES.index("i_cdf")
        null = null_draws(sides, draws=self.config.draws, rng=rng)
        return Figures(
            value=found.value,
            null=found.null,
            value_draws=found.value_draws,
            above_draws=found.above_draws,
            held_out=found.held_out,
            gaps=np.concatenate(gaps),
            p=p_value(float(found.value[i_cdf]), null),
        )


def features_of(found: Contrast, config: SelectionConfig) -> FeatureColumns:
    """The features worth storing for a concept, and which of them are its candidates."""
    f, s = found.frequency, found.swapped
    kept = np.flatnonzero(np.maximum(f, s) >= config.keep_floor - 1e-9)
    candidate = (f >= config.candidate_threshold - 1e-9) & (f - s >= config.min_lift - 1e-9)
    kept = np.union1d(kept, np.flatnonzero(candidate))
    return FeatureColumns(kept.astype(np.int32), f[kept], s[kept], candidate[kept])


def _no_features() -> FeatureColumns:
    return FeatureColumns(np.zeros(0, np.int32), np.zeros(0), np.zeros(0), np.zeros(0, bool))

"""From the features that fire on pairs to a concept's figures. Numbers only: no model, no store."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float32, Int
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
from safesail.selection.texts import PairTexts


@dataclass(frozen=True)
class FeatureColumns:
    """The features that tell one concept from its absence, in columns of one length."""

    feature: NDArray[np.int32]
    frequency: NDArray[np.float64]
    """Share of pairs in which the feature fires on q+ only."""

    swapped: NDArray[np.float64]
    """Share in which it fires on q- only."""

    candidate: NDArray[np.bool_]

    @classmethod
    def of(cls, contrast: Contrast, config: SelectionConfig) -> "FeatureColumns":
        """The features that fire on one side alone of any pair, and which of them are candidates."""
        f, s = contrast.frequency, contrast.swapped
        candidate = (f >= config.candidate_threshold - 1e-9) & (f - s >= config.min_lift - 1e-9)
        one_sided = np.flatnonzero(f + s)
        return cls(one_sided.astype(np.int32), f[one_sided], s[one_sided], candidate[one_sided])


@dataclass(frozen=True)
class ConceptResult:
    """One SAE on one concept, until it is added to the sums of its domain: 70 kB with 400 draws."""

    concept_id: str
    domain: str
    n_pairs: int
    contrast: Contrast | Undefined
    gaps: Int[np.ndarray, " n_pairs"]
    """Tokens of q+ minus tokens of q-."""

    p: float | None
    """Chance of this I_CDF or a larger one if the sides of the pairs meant nothing."""

    features: FeatureColumns
    texts: PairTexts


@dataclass
class Scorer:
    """Takes in the firing of one SAE on the pairs of some concepts, batch by batch, and gives their figures."""

    d_sae: int
    concepts: Sequence[Concept]
    config: SelectionConfig
    _parts: dict[int, list[OneSided]] = field(init=False, default_factory=lambda: defaultdict(list))
    _gaps: dict[int, list[NDArray[np.int64]]] = field(init=False, default_factory=lambda: defaultdict(list))
    _texts: dict[int, list[PairTexts]] = field(init=False, default_factory=lambda: defaultdict(list))

    def add(self, batch: Batch, maxima: Float32[np.ndarray, "n_texts d_sae"], above: Any = 0) -> None:
        """Take in the features' largest activations on each row of a batch; those larger than `above` fire."""
        fires = maxima > above
        pos, neg = fires[0::2], fires[1::2]
        concepts, gaps = batch.concepts, batch.gaps
        for concept in np.unique(concepts):
            own = concepts == concept
            self._parts[int(concept)].append(one_sided(pos[own], neg[own]))
            self._gaps[int(concept)].append(gaps[own])
            pairs = [pair for pair, is_own in zip(batch.pairs, own, strict=True) if is_own]
            self._texts[int(concept)].append(PairTexts.of(pairs, maxima[np.repeat(own, 2)]))

    def close(self, concepts: Sequence[int]) -> Iterator[ConceptResult]:
        """The figures of concepts whose pairs have all been added, one after the other; their firing is forgotten."""
        silent = np.zeros((0, self.d_sae), bool)
        for number in concepts:
            sides = join(self._parts.pop(number, [one_sided(silent, silent)]))
            gaps = np.concatenate(self._gaps.pop(number, [np.zeros(0, np.int64)]))
            texts = PairTexts.join(self._texts.pop(number, []), self.d_sae)
            yield self._result(self.concepts[number], sides, gaps, texts)

    def _result(
        self, concept: Concept, sides: OneSided, gaps: NDArray[np.int64], texts: PairTexts
    ) -> ConceptResult:
        rng = concept_rng(concept.concept_id, self.config.seed)
        about = concept.concept_id, concept.domain, sides.n_pairs
        result = contrast(sides, draws=self.config.draws, rng=rng)
        if isinstance(result, Undefined):
            none = FeatureColumns(np.zeros(0, np.int32), np.zeros(0), np.zeros(0), np.zeros(0, bool))
            return ConceptResult(*about, result, gaps, None, none, texts)
        null = null_draws(sides, draws=self.config.draws, rng=rng)
        p = p_value(float(result.value[MEASURES.index("i_cdf")]), null)
        return ConceptResult(*about, result, gaps, p, FeatureColumns.of(result, self.config), texts)


def concept_rng(concept_id: str, seed: int) -> np.random.Generator:
    """Keyed by concept, so that a concept's resamples do not depend on the others, and SAEs share them."""
    return np.random.default_rng([seed, int(content_id(concept_id), 16)])

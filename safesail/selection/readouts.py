"""Readouts of one SAE: what its parts hold of every text, against texts of other domains. Numbers only."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from safesail.metrics.readout import Maxima, Negatives, Readout, Wide, read_concept
from safesail.selection.config import SelectionConfig
from safesail.selection.core import concept_rng
from safesail.selection.figures import Detections
from safesail.selection.parts import Part
from safesail.selection.texts import PairTexts
from safesail.store.selection import SelectionPiece

WIDE_TEXTS = 1024
"""Texts drawn from all pairs as negatives: half of them help to choose, half are measured on. So memory is flat."""

_FEWEST = 8
"""With fewer texts of other domains (of one domain alone: concepts) than this in either half, there are none to use."""


@dataclass(frozen=True)
class Sample:
    """The texts of lowest priority: a uniform sample of all, whatever the order in which they came."""

    priority: NDArray[np.uint64]
    group: NDArray[np.str_]
    """Each text's domain; its concept where there is one domain alone."""

    texts: tuple[Maxima, ...]
    """One text each."""

    @classmethod
    def of(cls, texts: PairTexts, group: str) -> Self:
        """All texts of a concept, or as many of them as a sample holds."""
        order = np.argsort(texts.priority, kind="stable")[:WIDE_TEXTS]
        rows = tuple(texts.take(np.array([i])) for i in order)
        return cls(texts.priority[order], np.repeat(np.array([group]), order.size), rows)

    def __add__(self, other: Self) -> Self:
        priority = np.concatenate([self.priority, other.priority])
        group = np.concatenate([self.group, other.group])
        order = np.argsort(priority, kind="stable")[:WIDE_TEXTS]
        rows = (*self.texts, *other.texts)
        return type(self)(priority[order], group[order], tuple(rows[i] for i in order))

    def half(self, which: int, d_sae: int) -> tuple[NDArray[np.str_], Negatives]:
        """Groups of every other text, from the first or the second on, and what the features do on them."""
        rows = self.texts[which::2]
        empty = Maxima(0, d_sae, *(np.zeros(0, kind) for kind in (np.int64, np.int32, np.float32)))
        feature, value = (
            np.concatenate([getattr(row, name) for row in (empty, *rows)]) for name in ("feature", "value")
        )
        text = np.repeat(np.arange(len(rows)), [row.feature.size for row in rows])
        return self.group[which::2], Negatives.of(Maxima(len(rows), d_sae, text, feature, value))


class SaeReader:
    """Chooses and measures the readouts of one SAE, part by part."""

    def __init__(
        self, parts: Iterable[Part], domains: Mapping[str, str], d_sae: int, config: SelectionConfig
    ) -> None:
        """Goes through all parts once, one held at a time.

        Args:
            parts: All that was measured of the SAE.
            domains: Domain of every concept id.
            d_sae: Features of the SAE.
            config: Settings.
        """
        self._domains, self._config = domains, config
        alone = len(set(domains.values())) < 2
        self._others = "concepts" if alone else "domains"
        self._groups = {concept_id: concept_id if alone else domain for concept_id, domain in domains.items()}
        sample = Sample(np.zeros(0, np.uint64), np.zeros(0, np.str_), ())
        largest = np.zeros(d_sae)
        for part in parts:
            for concept_id, texts in part.texts.items():
                sample += Sample.of(texts, self._groups[concept_id])
                np.maximum.at(largest, texts.feature, texts.value)
        self._scale = np.where(largest > 0, largest, 1.0)
        self._halves = [sample.half(which, d_sae) for which in (0, 1)]
        self._wide: tuple[str, Wide | None] | None = None
        self.detections: dict[str, Detections] = {}
        """Added up by domain, of the parts that were read."""

    def read(self, part: Part) -> SelectionPiece:
        """All that a part's concepts record."""
        rows, readings = list(part.rows), list(self.concepts(part))
        for concept_id, _, detections in readings:
            domain = self._domains[concept_id]
            rows += detections.rows("concept", concept_id)
            before = self.detections.get(domain)
            self.detections[domain] = detections if before is None else before + detections
        chosen = {(c, int(r.feature[i])) for c, r, _ in readings for i in r.chosen}
        features = self._kept(part.features, chosen)
        named = {*chosen, *zip(features["concept_id"].tolist(), features["feature"].tolist(), strict=True)}
        separations = [self._separations(c, readout, named) for c, readout, _ in readings]
        return SelectionPiece(rows, features, _joined(separations))

    def concepts(self, part: Part) -> Iterator[tuple[str, Readout, Detections]]:
        """Each concept: its readout, and what such readouts detect on held-out pairs."""
        draws = self._config.draws
        for concept_id, texts in part.texts.items():
            n_pairs = texts.n_texts // 2
            rng = concept_rng(concept_id, self._config.seed)
            if n_pairs < 2:
                why = f"{n_pairs} pairs; a contrast needs at least 2"
                yield concept_id, Readout.nothing(), Detections.of(why, n_pairs, draws, rng)
                continue
            readout, detection = read_concept(
                *texts.sides(),
                self._wide_of(self._groups[concept_id]),
                self._scale,
                limit=self._config.readout_features,
                rng=rng,
            )
            why = f"fewer than {2 * _FEWEST} texts of other {self._others}"
            yield concept_id, readout, Detections.of(detection or why, n_pairs, draws, rng)

    def _wide_of(self, group: str) -> Wide | None:
        if self._wide is None or self._wide[0] != group:  # concepts of a domain mostly stand together
            others = [negatives.only(groups != group) for groups, negatives in self._halves]
            few = min(half.n_texts for half in others) < _FEWEST
            self._wide = group, None if few else Wide(*others)
        return self._wide[1]

    def _kept(
        self, features: Mapping[str, NDArray[Any]], chosen: set[tuple[str, int]]
    ) -> dict[str, NDArray[Any]]:
        """The features worth recording; those of a readout are candidates whatever their frequency."""
        pairs = zip(features["concept_id"].tolist(), features["feature"].tolist(), strict=True)
        in_readout = np.fromiter((pair in chosen for pair in pairs), bool, features["feature"].size)
        candidate = features["candidate"] | in_readout
        often = np.maximum(features["frequency"], features["swapped"]) >= self._config.keep_floor - 1e-9
        return {
            name: column[often | candidate] for name, column in ({**features, "candidate": candidate}).items()
        }

    def _separations(
        self, concept_id: str, readout: Readout, named: set[tuple[str, int]]
    ) -> dict[str, NDArray[Any]]:
        rank = np.zeros(readout.feature.size, np.int32)
        rank[readout.chosen] = np.arange(1, readout.chosen.size + 1)
        kept = np.fromiter(
            ((concept_id, j) in named for j in readout.feature.tolist()), bool, readout.feature.size
        )
        none = np.full(readout.feature.size, None)
        return {
            "concept_id": np.repeat(concept_id, kept.sum()),
            "feature": readout.feature[kept].astype(np.int32),
            "auc_pairs": readout.auc_pairs[kept],
            "auc_wide": (none if readout.auc_wide is None else readout.auc_wide)[kept],
            "readout_rank": np.array([int(r) or None for r in rank[kept]], dtype=object),
            "scale": self._scale[readout.feature[kept]],
        }


def _joined(parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}

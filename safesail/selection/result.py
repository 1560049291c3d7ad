"""What a selection says to people and programs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safesail.store.connection import Db
from safesail.store.selection import (
    RANKING,
    ConceptFeature,
    ScoredSae,
    ScoreRow,
    best_features,
    candidate_features,
    ranked_saes,
    read_scores,
)

_COMPANIONS = ("i_cdf", "i_cdf_above_null", "l0_t0.5", "l0_t0.5_above_null")
"""Figures over all concepts that stand beside the ranking one."""


@dataclass(frozen=True)
class RankedSae:
    """One SAE in the ranking."""

    sae: ScoredSae
    """With the ranking figure."""

    overall: Mapping[str, ScoreRow]
    """Figures over all concepts but the controls, by measure."""

    domains: Mapping[str, ScoreRow]
    """The ranking figure by domain, controls included."""

    n_candidates: int
    new: bool
    """Scored in this run; False: the store had its figures."""

    def cells(self) -> dict[str, Any]:
        """One row for people."""
        sae = self.sae
        companions = {name: getattr(self.overall.get(name), "value", None) for name in _COMPANIONS}
        return {
            "sae": sae.sae_id,
            "layer": sae.layer,
            "L0": sae.l0,
            "FVU": sae.fvu,
            RANKING: sae.value,
            "low": sae.low,
            "high": sae.high,
            **companions,
            "candidates": self.n_candidates,
            "new": self.new,
        }


@dataclass(frozen=True)
class SelectionResult:
    """SAEs, best first."""

    ranked: tuple[RankedSae, ...]
    features: tuple[ConceptFeature, ...]
    """Of the best SAE: the features that tell each concept best from its absence, by concept, best first."""

    n_tokens: int
    """Tokens that the subject model saw in this run; 0 where all figures were in the store."""

    seconds: Mapping[str, float]
    """Of this run: `model` (its forward passes), `encode` (all SAEs), `contrast` (the figures)."""

    @property
    def best(self) -> str:
        """The SAE that is ranked first."""
        return self.ranked[0].sae.sae_id

    def table(self) -> list[dict[str, Any]]:
        """One row per SAE, best first."""
        return [ranked.cells() for ranked in self.ranked]

    def domain_table(self) -> list[dict[str, Any]]:
        """One row per SAE with the ranking figure of every domain."""
        return [
            {"sae": r.sae.sae_id, **{domain: row.value for domain, row in r.domains.items()}}
            for r in self.ranked
        ]

    def feature_table(self) -> list[dict[str, Any]]:
        """One row per concept: the best SAE's features for it, each with how much more often it fires on q+."""
        by_concept: dict[str, list[str]] = {}
        for f in self.features:
            by_concept.setdefault(f.concept_id, []).append(f"#{f.feature} {f.lift:+.2f}")
        return [{"concept": c, "features, lift": "  ".join(best)} for c, best in by_concept.items()]


def read_result(
    db: Db,
    selection_ids: Mapping[str, str],
    *,
    new: frozenset[str],
    n_tokens: int,
    seconds: Mapping[str, float],
) -> SelectionResult:
    """The ranking of selections that the store has, by sae_id -> selection_id."""
    ranked = [
        _read(db, sae, is_new=sae.sae_id in new)
        for sae in ranked_saes(db, selection_ids=list(selection_ids.values()))
    ]
    features = best_features(db, ranked[0].sae.selection_id)
    return SelectionResult(tuple(ranked), tuple(features), n_tokens, seconds)


def _read(db: Db, sae: ScoredSae, *, is_new: bool) -> RankedSae:
    overall = {row.measure: row for row in read_scores(db, sae.selection_id, scope="all")}
    by_domain = read_scores(db, sae.selection_id, scope="domain")
    domains = {row.scope_id: row for row in by_domain if row.measure == RANKING}
    candidates = candidate_features(db, sae.sae_id, selection_id=sae.selection_id)
    return RankedSae(sae, overall, domains, len(candidates), is_new)

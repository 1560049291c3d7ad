"""What a selection says to people and programs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safesail.store.connection import Db
from safesail.store.selection import (
    RANKING,
    SECOND,
    ReadoutFeature,
    ScoredSae,
    ScoreRow,
    candidate_features,
    ranked_saes,
    read_scores,
    readouts,
)

_COMPANIONS = (SECOND, "i_cdf", "i_cdf_above_null", "l0_t0.5", "l0_t0.5_above_null")
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

    concepts: Mapping[str, ScoreRow]
    """The ranking figure by concept."""

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
            "hook": sae.hook.rpartition(".")[2],
            "L0": sae.l0,
            "FVU": sae.fvu,
            RANKING: sae.value,
            "low": sae.low,
            "high": sae.high,
            "null": sae.null_value,
            **companions,
            "candidates": self.n_candidates,
            "new": self.new,
        }


@dataclass(frozen=True)
class SelectionResult:
    """SAEs, best first."""

    ranked: tuple[RankedSae, ...]
    readouts: tuple[ReadoutFeature, ...]
    """Of the best SAE: the features that together detect each concept, by concept, best first."""

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

    def figures(self) -> list[dict[str, Any]]:
        """Every SAE with all its figures over all concepts, and the ranking one by domain and concept."""
        return [
            {"sae": r.sae, "all": list(r.overall.values()), "domains": list(r.domains.values()),
             "concepts": list(r.concepts.values())}
            for r in self.ranked
        ]  # fmt: skip

    def domain_table(self) -> list[dict[str, Any]]:
        """One row per SAE with the ranking figure of every domain."""
        return [
            {"sae": r.sae.sae_id, **{domain: row.value for domain, row in r.domains.items()}}
            for r in self.ranked
        ]

    def readout_table(self) -> list[dict[str, Any]]:
        """One row per concept: what the best SAE's readout detects, and its features with lift and AUC on pairs."""
        by_concept: dict[str, list[str]] = {}
        for f in self.readouts:
            by_concept.setdefault(f.concept_id, []).append(f"#{f.feature} {f.lift:+.2f} {f.auc_pairs:.2f}")
        detected = self.ranked[0].concepts
        return [
            {
                "concept": concept,
                RANKING: detected[concept].value if concept in detected else None,
                "features: lift, AUC on pairs": "  ".join(chosen),
            }
            for concept, chosen in by_concept.items()
        ]


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
    chosen = readouts(db, ranked[0].sae.selection_id)
    return SelectionResult(tuple(ranked), tuple(chosen), n_tokens, seconds)


def _read(db: Db, sae: ScoredSae, *, is_new: bool) -> RankedSae:
    overall = {row.measure: row for row in read_scores(db, sae.selection_id, scope="all")}
    domains, concepts = (
        {
            row.scope_id: row
            for row in read_scores(db, sae.selection_id, scope=scope)
            if row.measure == RANKING
        }
        for scope in ("domain", "concept")
    )
    candidates = candidate_features(db, sae.sae_id, selection_id=sae.selection_id)
    return RankedSae(sae, overall, domains, concepts, len(candidates), is_new)

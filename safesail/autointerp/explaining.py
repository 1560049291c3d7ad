"""Explaining and scoring the candidate features of one SAE, as the command line and pipelines do it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from safesail.autointerp.budgeted import BudgetedConfig, BudgetedRun, Plan, RunResult
from safesail.autointerp.clients import ChatSettings
from safesail.autointerp.near_duplicates import near_duplicates
from safesail.autointerp.ranking import OrderConfig, by_value
from safesail.domain.ids import FeatureId
from safesail.domain.records import Concept
from safesail.errors import ConfigError, SafeSailError
from safesail.store.concepts import read_concepts
from safesail.store.connection import Db
from safesail.store.exemplars import window_counts
from safesail.store.explanations import record_tags
from safesail.store.registry import finish_run, start_run
from safesail.store.selection import CandidateFeature, candidate_features


@dataclass(frozen=True)
class Outcome:
    """What a run bought, and for how many tokens."""

    bought: RunResult
    run_id: str
    tokens: int
    """Newly spent."""


def rank_candidates(
    db: Db, sae_id: str, *, n: int, min_windows: int, order: OrderConfig | None = None
) -> list[CandidateFeature]:
    """The most valuable candidates that fire often enough, in both splits, to be explained and scored.

    Raises:
        NotFoundError: the SAE has no selection.
        ConfigError: no candidate fires often enough, or all of their domains have weight 0.
    """
    counts = window_counts(db, sae_id)
    candidates = candidate_features(db, sae_id)
    enough = [
        c
        for c in candidates
        if min(counts.get(c.feature, {}).get(split, 0) for split in ("train", "test")) >= min_windows
    ]
    if not enough:
        raise ConfigError(
            f"none of the {len(candidates)} candidates of {sae_id} fires in {min_windows} windows of either split; "
            "harvest more text that has the concepts"
        )
    domains = {c.concept_id: c.domain for c in read_concepts(db)}
    ordered = by_value(enough, domains, order or OrderConfig())
    if not ordered:
        raise ConfigError(f"no candidate of {sae_id} is left: every domain that they are of has weight 0")
    return ordered[:n]


def explain_candidates(
    db: Db,
    candidates: Sequence[CandidateFeature],
    sae_id: str,
    chat: ChatSettings,
    config: BudgetedConfig,
    *,
    quiet: bool,
) -> Outcome:
    """Explain and score `candidates`, the first one first, until they or the budget are used up.

    Args:
        db: Store, open for writing.
        candidates: Features of one SAE, as `rank_candidates` orders them.
        sae_id: That SAE.
        chat: Whom to ask.
        config: How.
        quiet: No progress bar.

    Raises:
        LLMUnavailableError: an endpoint is dead; what is finished is stored.
        CacheMissError: replay was asked for and an answer is not in the cache.
    """
    settings = with_models(config, chat)
    run_id = start_run(db, "explain", settings.model_dump(mode="json") | {"sae_id": sae_id})
    clients = chat.open(db, run_id)
    run = BudgetedRun(db, clients.explainer, clients.simulator, settings)
    plan = make_plan(db, sae_id, candidates, settings)
    try:
        bought = asyncio.run(run.run(plan, quiet=quiet))
    except* SafeSailError as group:
        raise group.exceptions[0] from group  # the first one says why; the others followed from it
    concepts = {c.concept_id: c for c in read_concepts(db)}
    for candidate, feature in zip(candidates, plan.features, strict=True):
        record_tags(db, feature, concept_tags(candidate, concepts), source="concepts")
    finish_run(db, run_id)
    return Outcome(bought, run_id, clients.spent_tokens)


def with_models(config: BudgetedConfig, chat: ChatSettings) -> BudgetedConfig:
    """The settings with the names of the models that are asked."""
    return config.model_copy(
        update={
            "explain": config.explain.model_copy(update={"model": chat.explainer}),
            "scoring": config.scoring.model_copy(update={"model": chat.simulator}),
        }
    )


def make_plan(
    db: Db,
    sae_id: str,
    candidates: Sequence[CandidateFeature],
    config: BudgetedConfig,
) -> Plan:
    """What is to be explained and scored: which features share an explanation, and what the explainer is told."""
    alike = near_duplicates(db, sae_id, [c.feature for c in candidates], config.alike)
    concepts = {c.concept_id: c for c in read_concepts(db)}
    hints = {FeatureId(sae_id, c.feature): concepts[c.concept_ids[0]].name for c in candidates}
    return Plan(
        features=[FeatureId(sae_id, c.feature) for c in candidates],
        shared={FeatureId(sae_id, later): FeatureId(sae_id, earlier) for later, earlier in alike.items()},
        hints=hints if config.tell_concept else {},
    )


def concept_tags(candidate: CandidateFeature, concepts: dict[str, Concept]) -> list[str]:
    """Tags of the concepts that nominated a feature: the leaf, or the concept's own name where it has none."""
    found = (concepts[concept_id] for concept_id in candidate.concept_ids)
    return list(dict.fromkeys(concept.leaf or concept.concept_id.rpartition(".")[2] for concept in found))

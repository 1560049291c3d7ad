"""The bundled SmolLM2 SAEs through the real stages: selection, one harvest, explaining and scoring of each.

Everything lies in one store, so that a killed run goes on where it was.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int
from tqdm import tqdm

from safesail.autointerp.clients import ChatSettings
from safesail.autointerp.ranking import Chosen
from safesail.autointerp.run import plan_features, run_plan
from safesail.concepts.read import load_concepts
from safesail.domain.ids import FeatureId
from safesail.domain.records import Concept
from safesail.harvest.run import HarvestJob, run_harvest
from safesail.llm.budget import parse_budget
from safesail.pipeline.config import PipelineConfig
from safesail.resources import expand
from safesail.sae.encode import encode_rows
from safesail.sae.load import open_saes
from safesail.sae.protocol import SAE
from safesail.selection.activity import text_maxima
from safesail.selection.batches import Chunk, cut_chunks, tokenize_pairs
from safesail.selection.config import SelectionConfig
from safesail.selection.run import run_selection
from safesail.store.connection import Db
from safesail.store.explanations import headline_scores, read_tags
from safesail.store.selection import CandidateFeature, ScoredSae, ranked_saes
from safesail.store.selection import read_scores as read_figures
from safesail.store.sql import rows, value
from safesail.subject.loading import ModelConfig, load_subject
from safesail.subject.protocol import Subject
from tests.benchmarks.baselines import alternate, contrast_baselines
from tests.benchmarks.suite_stats import Option, Tried

Maxima = Float32[np.ndarray, "2 n_pairs d_sae"]
"""Largest activation of each feature on both sides of pairs."""

OURS = {
    "detection": "detection",
    "pair_isolation": "pair_isolation",
    "pair_isolation, equal length": "pair_isolation_equal_length",
    "L_0,0.5 above null": "l0_t0.5_above_null",
    "I_CDF above null": "i_cdf_above_null",
}
"""Figures of the selection stage by the name they have here, the one that ranks first."""


@dataclass(frozen=True)
class SaeFigures:
    """What is known of one SAE before anything is explained."""

    sae_id: str
    layer: int | None
    k: int | None
    low: float | None
    high: float | None
    """95 % interval of pair_isolation over pairs."""

    n_candidates: int
    """Features that pass the demonstration's thresholds for a concept."""

    overall: Mapping[str, float]
    """By name of the figure."""

    by_domain: Mapping[str, Mapping[str, float]]
    """By domain, then figure; those that know no domains stand in each with the same value."""


def measure(db: Db, config: PipelineConfig, baselines: Path, *, quiet: bool) -> list[SaeFigures]:
    """Selection and harvest of every SAE, and the baselines, which are kept in a file beside the store."""
    subject = load_subject(ModelConfig(config.model), quiet=quiet)
    saes = open_saes(config.saes, subject)
    concepts = load_concepts(config.concepts)
    chosen = run_selection(db, subject, saes, concepts, config.selection, quiet=quiet)
    run_harvest(db, HarvestJob(subject, saes, [expand(s) for s in config.texts], config.harvest), quiet=quiet)
    if not baselines.is_file():
        safety = [c for c in concepts if c.domain not in config.selection.controls]
        pairs = baselines.with_suffix(".parts")
        found = pair_baselines(subject, saes, safety, config.selection, pairs, quiet=quiet)
        baselines.write_text(json.dumps(found), encoding="utf-8")
        shutil.rmtree(pairs)
    by_sae = json.loads(baselines.read_text(encoding="utf-8"))
    n_candidates = {r.sae.sae_id: r.n_candidates for r in chosen.ranked}
    return [
        figures_of(db, sae, by_sae[sae.sae_id], config.selection.controls, n_candidates[sae.sae_id])
        for sae in sorted(ranked_saes(db), key=lambda s: (s.layer or 0, s.k or 0))
    ]


def figures_of(
    db: Db, sae: ScoredSae, contrast: Mapping[str, Any], controls: Sequence[str], n_candidates: int
) -> SaeFigures:
    """All figures of one SAE, ours first, higher standing for better."""
    found = {(r.scope, r.scope_id, r.measure): r for r in read_figures(db, sae.selection_id)}
    assert sae.fvu is not None and sae.l0 is not None
    dead = value(db, "SELECT avg((n_active = 0)::INT) FROM features WHERE sae_id = ?", [sae.sae_id])
    plain = {
        "variance explained": 1 - sae.fvu,
        "L0, more is better": sae.l0,
        "L0, fewer is better": -sae.l0,
        "dead share, fewer is better": -float(dead),
    }

    def ours(scope: str, scope_id: str) -> dict[str, float]:
        return {name: float(found[scope, scope_id, m].value or 0.0) for name, m in OURS.items()}

    domains = sorted({of for scope, of, _ in found if scope == "domain"} - set(controls))
    ranking = found["all", "all", "pair_isolation"]
    return SaeFigures(
        sae.sae_id, sae.layer, sae.k, ranking.low, ranking.high, n_candidates,
        overall={**ours("all", "all"), **plain, **contrast["all"]},
        by_domain={d: {**ours("domain", d), **plain, **contrast[d]} for d in domains},
    )  # fmt: skip


def pair_baselines(
    subject: Subject,
    saes: Sequence[SAE],
    concepts: Sequence[Concept],
    config: SelectionConfig,
    folder: Path,
    *,
    quiet: bool,
) -> dict[str, dict[str, dict[str, float]]]:
    """Baselines that need activations on the pairs: by SAE, then by domain or `all`, then by name."""
    pairs = tokenize_pairs(concepts, subject.tokenize, subject.n_ctx_max, config)
    chunks = cut_chunks(pairs, config.batch_tokens)
    maxima, concept = pair_maxima(subject, saes, chunks, folder, quiet=quiet)
    domain = np.array([c.domain for c in concepts])[concept]
    train = alternate(concept)
    result: dict[str, dict[str, dict[str, float]]] = {}
    for sae_id, sides in maxima.items():
        # Every feature from 0 to 1, as a probe and Cohen's d are computed on firing in the planted grid.
        pos, neg = sides / np.maximum(sides.max(axis=(0, 1)), 1e-9)
        result[sae_id] = {"all": contrast_baselines(pos, neg, train)}
        for name in np.unique(domain):
            own = domain == name
            result[sae_id][str(name)] = contrast_baselines(pos[own], neg[own], train[own])
    return result


def pair_maxima(
    subject: Subject,
    saes: Sequence[SAE],
    chunks: Sequence[Chunk],
    folder: Path,
    *,
    quiet: bool,
) -> tuple[dict[str, Maxima], Int[np.ndarray, " n_pairs"]]:
    """Largest activation of each feature on both sides of every pair, and the number of the pair's concept.

    Chunks of pairs are kept in `folder` until all are there, so that a killed run loses one of them at most.
    """
    folder.mkdir(exist_ok=True)
    parts: dict[str, list[Maxima]] = {sae.info.sae_id: [] for sae in saes}
    for number, chunk in enumerate(tqdm(chunks, desc="baselines", unit="chunk", disable=quiet)):
        kept, begun = folder / f"{number}.npz", folder / "begun.npz"
        if not kept.is_file():
            np.savez(begun, allow_pickle=False, **chunk_maxima(subject, saes, chunk))
            begun.replace(kept)
        with np.load(kept) as columns:
            for sae_id, found in parts.items():
                found.append(columns[sae_id])
    concept = np.concatenate([batch.concepts for chunk in chunks for batch in chunk.batches])
    return {sae_id: np.concatenate(found, axis=1) for sae_id, found in parts.items()}, concept


def chunk_maxima(subject: Subject, saes: Sequence[SAE], chunk: Chunk) -> dict[str, Maxima]:
    """The same for the pairs of one chunk, by SAE."""
    parts: dict[str, list[Maxima]] = {sae.info.sae_id: [] for sae in saes}
    for batch in chunk.batches:
        encoded = encode_rows(subject, saes, batch.rows).by_sae
        for sae in saes:
            n, d_sae, acts = len(batch.pairs), sae.info.d_sae, encoded[sae.info.sae_id]
            maxima = text_maxima(acts.row, acts.feature, acts.value, 2 * n, d_sae)
            parts[sae.info.sae_id].append(maxima.reshape(n, 2, d_sae).swapaxes(0, 1))
    return {sae_id: np.concatenate(found, axis=1) for sae_id, found in parts.items()}


def options(db: Db, sae_id: str, controls: Sequence[str], min_windows: int) -> dict[str, list[Option]]:
    """By domain, the features that tell one of its concepts from its absence, the best first.

    Left out are those that fire in fewer than `min_windows` windows of either split: they cannot be scored.
    """
    found = rows(
        db,
        """
        WITH firing AS (
            SELECT DISTINCT feature, token // h.n_ctx AS window_id, h.harvest_key
            FROM activations JOIN saes USING (sae_key)
            JOIN harvest_saes USING (sae_key) JOIN harvests h USING (harvest_key)
            WHERE sae_id = ?
        ), enough AS (
            SELECT feature FROM firing JOIN windows w USING (harvest_key, window_id) GROUP BY feature
            HAVING least(count(*) FILTER (w.split = 'train'), count(*) FILTER (w.split = 'test')) >= ?
        ), newest AS (
            SELECT selection_id FROM selections WHERE sae_id = ? ORDER BY rowid DESC LIMIT 1
        )
        SELECT c.domain, f.feature, arg_max(c.concept_id, f.frequency - f.swapped) AS concept_id,
               arg_max(f.frequency, f.frequency - f.swapped), arg_max(f.swapped, f.frequency - f.swapped),
               bool_or(f.candidate)
        FROM feature_concepts f JOIN newest USING (selection_id) JOIN enough USING (feature)
        JOIN concepts c USING (concept_id)
        WHERE NOT list_contains(?, c.domain)
        GROUP BY c.domain, f.feature HAVING max(f.frequency - f.swapped) > 0
        ORDER BY c.domain, max(f.frequency - f.swapped) DESC, f.feature
        """,
        [sae_id, min_windows, sae_id, list(controls)],
    )
    by_domain: dict[str, list[Option]] = {}
    for domain, *rest in found:
        by_domain.setdefault(str(domain), []).append(Option(*rest))
    return by_domain


def try_features(
    db: Db, sae_id: str, chosen: Sequence[tuple[str, Option]], config: PipelineConfig, *, quiet: bool
) -> list[Tried]:
    """Explain and score the chosen features of one SAE, unless the store has them."""
    if not {o.feature for _, o in chosen} <= finished_features(db, sae_id):
        candidates = [CandidateFeature(o.feature, (o.concept_id,), o.frequency, o.swapped) for _, o in chosen]
        chat = ChatSettings("lexical", "lexical", parse_budget("unlimited"))
        plan = plan_features(db, Chosen(sae_id, candidates, "the suite's"), config.autointerp)
        run_plan(db, plan, chat, config.autointerp, quiet=quiet)
    scores = {s.feature.index: s for s in headline_scores(db, sae_id)}
    tried: list[Tried] = []
    for domain, o in chosen:
        score = scores.get(o.feature)
        figures = (None, None, None) if score is None else (score.value, score.low, score.chance)
        lift = o.frequency - o.swapped
        tags = read_tags(db, FeatureId(sae_id, o.feature)).get("explainer", ())
        tried.append(Tried(sae_id, domain, o.feature, o.concept_id, lift, o.candidate, tags, *figures))
    return tried


def finished_features(db: Db, sae_id: str) -> set[int]:
    """Features with a score, or a failure to explain them."""
    found = rows(
        db,
        "SELECT feature FROM scores WHERE sae_id = ?"
        " UNION SELECT feature FROM explanations WHERE sae_id = ? AND error IS NOT NULL",
        [sae_id, sae_id],
    )
    return {int(row[0]) for row in found}

"""`intervene` on a store: which features, on which text, and their effects into the table `effects`."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from safesail.domain.ids import FeatureId
from safesail.errors import ConfigError, NotFoundError, SaeError, meant
from safesail.intervene.config import InterveneConfig
from safesail.intervene.directions import null_features, with_nulls
from safesail.intervene.feature import FeatureTask, Neutral, measure_feature
from safesail.intervene.lens import store_lens, top_ids
from safesail.intervene.output_score import score_outputs
from safesail.intervene.spans import FiringText, GivenText, HarvestedText
from safesail.intervene.token_sets import MIN_TOKENS, followers, key_words, words_of
from safesail.metrics.effects import benjamini_hochberg, rank_p_values
from safesail.sae.protocol import SAE
from safesail.store.concepts import read_concepts
from safesail.store.connection import Db
from safesail.store.effects import (
    MeasuredIn,
    StoredNull,
    feature_sizes,
    following_tokens,
    measured_features,
    random_spans,
    stored_nulls,
    token_counts,
    write_effects,
    write_p_values,
)
from safesail.store.exemplars import find_feature, harvest_of, window_counts
from safesail.store.registry import finish_run, register_sae, register_subject, start_run
from safesail.store.selection import CandidateFeature, best_sae, candidate_features, selections_of
from safesail.store.sql import transaction
from safesail.subject.head import head_logits
from safesail.subject.protocol import Subject

_FORMAT = 1
"""Goes into every settings hash: to be raised when the figures themselves change."""

MIN_WINDOWS = 5
"""Windows of each split in which a feature fires at least, where features are chosen and not named."""


@dataclass(frozen=True)
class InterveneReport:
    """What a run measured."""

    run_id: str
    features: tuple[FeatureId, ...]
    new: int
    """Features measured now; the others were there."""

    texts_id: str
    settings_hash: Mapping[str, str]
    """By SAE."""


def choose_features(
    db: Db, *, named: Sequence[FeatureId], concept: str | None, top: int | None, sae_id: str | None
) -> list[FeatureId]:
    """The features to be measured: those named, or candidates of a selection.

    Args:
        db: The open store.
        named: Taken as they are.
        concept: Candidates for this concept.
        top: At most so many candidates, the most distinguishing first.
        sae_id: Of the candidates; None: the SAE that selections rank first.

    Raises:
        ConfigError: nothing is named, or a concept that the store does not have.
        NotFoundError: no selection, or no harvest.
    """
    if named:
        return list(dict.fromkeys(named))
    if concept is None and top is None:
        raise ConfigError("no feature to measure; name one with --feature, or choose with --concept or --top")
    known = [c.concept_id for c in read_concepts(db)]
    if concept is not None and concept not in known:
        raise ConfigError(f"no concept {concept!r} in this store; {meant(concept, known)}")
    chosen = best_sae(db) if sae_id is None else sae_id
    harvest_of(db, chosen)
    counts = window_counts(db, chosen)
    often = [
        FeatureId(chosen, c.feature)
        for c in candidate_features(db, chosen, concepts=None if concept is None else [concept])
        if min(counts.get(c.feature, {}).get(split, 0) for split in ("train", "test")) >= MIN_WINDOWS
    ]
    if not often:
        raise ConfigError(
            f"no candidate of {chosen} fires in {MIN_WINDOWS} windows of each split; harvest more text"
        )
    return often[:top]


@torch.no_grad()
def run_interventions(
    db: Db,
    subject: Subject,
    saes: Sequence[SAE],
    features: Sequence[FeatureId],
    config: InterveneConfig,
    *,
    quiet: bool,
) -> InterveneReport:
    """Measure what features do, and record it; those measured before in the same way are not measured again.

    Args:
        db: The open store.
        subject: The subject model.
        saes: Those of the features, with their decoders.
        features: Which.
        config: How.
        quiet: No progress bar.

    Raises:
        ConfigError: a feature that never fires, or texts in which none fires.
        NotFoundError: no harvest of an SAE.
        SaeError: an SAE without a decoder.
        SubjectError: a model without a language head.
        FingerprintError: the store knows another model or SAE under one of these names.
    """
    loaded = {sae.info.sae_id for sae in saes}
    for feature in features:
        if feature.sae_id not in loaded:
            raise ConfigError(f"no SAE {feature.sae_id!r} is loaded; {meant(feature.sae_id, loaded)}")
    stages = [
        SaeStage(db, subject, sae, [f for f in features if f.sae_id == sae.info.sae_id], config)
        for sae in saes
        if any(f.sae_id == sae.info.sae_id for f in features)
    ]
    head_logits(subject, torch.zeros(1, subject.info.d_model))  # a model without a head says so here
    with transaction(db):
        register_subject(db, subject.info)
        for stage in stages:
            register_sae(db, stage.sae.info)
    sources = [stage.text() for stage in stages]
    run_id = start_run(db, "intervene", {**config.model_dump(), "features": [str(f) for f in features]})
    done = [stage.go(text, run_id, quiet=quiet) for stage, text in zip(stages, sources, strict=True)]
    finish_run(db, run_id)
    return InterveneReport(
        run_id,
        tuple(features),
        sum(new for _, new in done),
        sources[0].texts_id,
        {stage.sae.info.sae_id: identity for stage, (identity, _) in zip(stages, done, strict=True)},
    )


class SaeStage:
    """The features of one SAE."""

    def __init__(
        self, db: Db, subject: Subject, sae: SAE, features: Sequence[FeatureId], config: InterveneConfig
    ) -> None:
        """Refuses what cannot be measured before anything is written."""
        self.db, self.subject, self.sae, self.features, self.config = db, subject, sae, features, config
        name = sae.info.sae_id
        if sae.decoder is None:
            raise SaeError(f"{name} has an encoder only: there is no direction to edit along")
        subject.check_hook(sae.info.hook)
        self.harvest_id = harvest_of(db, name)
        self.sizes = feature_sizes(db, name)
        for feature in features:
            find_feature(db, feature)
            if feature.index not in self.sizes:
                raise ConfigError(
                    f"{feature} never fires in its harvest; choose another, or harvest more text"
                )

    def text(self) -> FiringText:
        """Where text comes from in which the features fire."""
        if not self.config.texts:
            return HarvestedText(self.db, self.harvest_id, self.config)
        return GivenText(self.subject, self.sae, [f.index for f in self.features], self.config)

    def go(self, text: FiringText, run_id: str, *, quiet: bool) -> tuple[str, int]:
        """Measure what is not measured yet; the settings' hash, and how many features that were."""
        measured = self._measured_in(text, run_id)
        known = measured_features(self.db, self.sae.info.sae_id, measured.settings_hash)
        pending = [f for f in self.features if f.index not in known]
        store_lens(self.db, self.subject, self.sae, [f.index for f in self.features])
        for feature in tqdm(pending, desc=self.sae.info.sae_id, unit="feature", disable=quiet):
            task = self._task(feature, text.spans(feature))
            rows = measure_feature(self.subject, self.sae, task, self.neutral, self.config)
            write_effects(self.db, feature, measured, rows)
        # Always: a run may have been killed between its last feature and this.
        rank_effects(self.db, self.sae.info.sae_id, measured.settings_hash)
        score_outputs(self.db, self.sae.info.sae_id, measured, self.config)
        return measured.settings_hash, len(pending)

    @cached_property
    def neutral(self) -> Neutral:
        """Neutral text, run once.

        Raises:
            NotFoundError: the harvest holds too few held-out windows that are long enough.
        """
        c = self.config
        spans = random_spans(
            self.db,
            self.sae.info.sae_id,
            "test",
            n_tokens=c.context + c.edited + 1,
            limit=c.n_neutral,
            seed=c.seed,
        )
        if len(spans) < c.min_texts:
            raise NotFoundError(
                f"{len(spans)} held-out documents of {self.sae.info.sae_id} have {c.context + c.edited + 1} tokens, "
                f"{c.min_texts} are needed; harvest more text, or lower `context`"
            )
        return Neutral.run(self.subject, self.sae.info.hook, spans, c)

    @cached_property
    def _candidates(self) -> dict[int, CandidateFeature]:
        name = self.sae.info.sae_id
        return (
            {c.feature: c for c in candidate_features(self.db, name)} if selections_of(self.db, name) else {}
        )

    @cached_property
    def _key_words(self) -> dict[str, list[int]]:
        """By concept, where it has enough of them."""
        tokens, size = self.subject.tokenize, self.config.set_size

        def is_word(token: int) -> bool:
            return bool(words_of(self.subject.token_strings([token])))

        sets = {
            c.concept_id: key_words([(tokens(p.pos), tokens(p.neg)) for p in c.pairs], size, is_word)
            for c in read_concepts(self.db)
        }
        return {name: ids for name, ids in sets.items() if len(ids) >= MIN_TOKENS}

    @cached_property
    def _counts(self) -> dict[int, int]:
        harvested = find_feature(self.db, self.features[0])
        return token_counts(self.db, harvested.harvest_key, "train")

    def _task(self, feature: FeatureId, spans: Sequence[Any]) -> FeatureTask:
        c, j = self.config, feature.index
        nulls = null_features(self.sae, j, self.sizes, c.n_null_features)
        directions = with_nulls(self.sae, j, nulls, n_random=c.n_random, seed=c.seed)
        return FeatureTask(j, self.sizes[j].maximum, spans, self._sets(feature), directions, len(nulls))

    def _sets(self, feature: FeatureId) -> dict[str, list[int]]:
        """Token sets that are large enough."""
        size = self.config.set_size
        follows = following_tokens(self.db, find_feature(self.db, feature), "train")
        candidate = self._candidates.get(feature.index)
        concepts = () if candidate is None else candidate.concept_ids
        sets = {
            "followers": followers(follows, self._counts, size),
            "key_words": next((self._key_words[c] for c in concepts if c in self._key_words), []),
            "lens": top_ids(self.subject, self.sae, feature.index, size),
        }
        return {name: ids for name, ids in sets.items() if len(ids) >= MIN_TOKENS}

    def _measured_in(self, text: FiringText, run_id: str) -> MeasuredIn:
        settings = self.config.model_dump(mode="json", exclude={"batch_rows", "texts"})
        info, subject = self.sae.info, self.subject.info
        identity = {
            "format": _FORMAT, "settings": settings, "model": [subject.fingerprint, subject.dtype],
            "sae": [info.sae_id, info.sha256, info.hook], "texts": [text.texts_id, self.harvest_id],
        }  # fmt: skip
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        return MeasuredIn(
            json.dumps(settings, sort_keys=True), digest, self.config.seed, subject.fingerprint, info.sha256,
            text.texts_id, run_id,
        )  # fmt: skip


def rank_effects(db: Db, sae_id: str, settings_hash: str) -> None:
    """P of every effect, among the nulls of all features measured so, and q.

    Nulls are those of one condition, texts and measure. Discoveries are counted over conditions too: over what does
    not depend on the feature's own direction together (followers and key words), over the logit lens' set, over each
    other measure.
    """
    families: dict[tuple[str, str, str], list[StoredNull]] = defaultdict(list)
    for effect in stored_nulls(db, sae_id, settings_hash):
        if effect.measure != "output_score":
            families[effect.condition, effect.texts, effect.measure].append(effect)
    p: dict[str, dict[tuple[int, str, str, str], float]] = defaultdict(dict)
    for (condition, texts, measure), effects in families.items():
        n = min(len(e.null_values) for e in effects)
        matrix = np.array([[e.expected * v for v in (e.value, *e.null_values[:n])] for e in effects])
        together = "sets" if measure in ("log_odds_followers", "log_odds_key_words") else measure
        for effect, rank in zip(effects, rank_p_values(matrix).tolist(), strict=True):
            p[together][effect.feature, condition, texts, measure] = rank
    ranked = {
        key: (rank, q)
        for of_measure in p.values()
        for (key, rank), q in zip(
            of_measure.items(), benjamini_hochberg(np.array(list(of_measure.values()))).tolist(), strict=True
        )
    }
    write_p_values(db, sae_id, settings_hash, ranked)

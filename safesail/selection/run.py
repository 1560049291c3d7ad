"""Rank SAEs by how well a few features detect concepts: one pass of the subject model for all of them."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

import torch

from safesail.concepts.read import concept_set_hash
from safesail.domain.records import Concept, LoadedSubject
from safesail.errors import ConfigError
from safesail.sae.protocol import SAE
from safesail.selection.config import SelectionConfig
from safesail.selection.figures import Sums, detection_rows, group_rows
from safesail.selection.readouts import SaeReader
from safesail.selection.result import SelectionResult, read_result
from safesail.selection.single_pass import CLOCKS, Pass
from safesail.store.concepts import write_concepts
from safesail.store.connection import Db
from safesail.store.registry import finish_run, register_sae, register_subject, start_run
from safesail.store.selection import (
    NEAR,
    SelectionPiece,
    SelectionRow,
    candidate_features,
    finished_selections,
    write_near,
    write_selection,
)
from safesail.store.sql import transaction
from safesail.store.staging import clear, staging_dir
from safesail.subject.protocol import Subject

_FORMAT = 2
"""Goes into every selection id: to be raised when the figures themselves change."""


def run_selection(
    db: Db,
    subject: Subject,
    saes: Sequence[SAE],
    concepts: Sequence[Concept],
    config: SelectionConfig,
    *,
    quiet: bool,
) -> SelectionResult:
    """Score SAEs on concept pairs and record their figures; SAEs scored before are not run again.

    The subject model sees every text once, whatever the number of SAEs, and no LLM is asked. A run that was
    killed goes on at the first chunk of concepts that it had not finished, unless `activity_quantile` is set.

    Args:
        db: The open store.
        subject: The subject model.
        saes: Candidates, at any of its hooks.
        concepts: The concept set.
        config: Settings.
        quiet: No progress bar.

    Raises:
        ConfigError: no SAE, two of one name, an unknown hook, or a text that does not fit the model.
        SaeError: an SAE was trained for activations of another size.
        FingerprintError: the store knows another model or SAE under one of these names.
    """
    _check_names(saes)
    ids = {sae.info.sae_id: selection_id(subject.info, sae, concepts, config) for sae in saes}
    finished = finished_selections(db, ids.values())
    pending = {ids[sae.info.sae_id]: sae for sae in saes if ids[sae.info.sae_id] not in finished}
    seconds, n_tokens = dict.fromkeys(CLOCKS, 0.0), 0
    folder = staging_dir(db, "selection")
    for identity in finished:
        clear(folder / identity)  # of a run that was killed after it had written its figures
    # Refuses what does not fit before anything is written.
    run = Pass(subject, pending, concepts, config, folder) if pending else None
    with transaction(db):
        register_subject(db, subject.info)
        for sae in saes:
            register_sae(db, sae.info)
    write_concepts(db, concepts)
    if run is not None:
        run_id = start_run(db, "selection", config.model_dump())
        run.go(quiet=quiet)
        for identity, sae in pending.items():
            _record(db, sae, identity, run, concepts, config)
            clear(folder / identity)
        finish_run(db, run_id)
        seconds, n_tokens = run.seconds, run.n_tokens
    for sae in saes:
        record_near(db, sae)
    new = frozenset(sae.info.sae_id for sae in pending.values())
    return read_result(db, ids, new=new, n_tokens=n_tokens, seconds=seconds)


def selection_id(
    subject: LoadedSubject, sae: SAE, concepts: Sequence[Concept], config: SelectionConfig
) -> str:
    """Identity of one SAE's selection: everything that can change its figures, and nothing else."""
    body = {
        "format": _FORMAT,
        "model": subject.fingerprint,
        "sae": [sae.info.sae_id, sae.info.sha256, sae.info.hook],
        "concepts": concept_set_hash(concepts),
        "settings": _settings(config),
    }
    if subject.dtype != "float32":  # what is not named is float32, as in stores of earlier versions
        body["dtype"] = subject.dtype
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def record_near(db: Db, sae: SAE) -> None:
    """Keep which candidates of an SAE have close decoder directions, for stages that have no weights."""
    if sae.decoder is None:
        return
    features = sorted(c.feature for c in candidate_features(db, sae.info.sae_id))
    chosen = torch.tensor(features, dtype=torch.long).to(sae.decoder.device)
    rows = torch.nn.functional.normalize(sae.decoder.index_select(0, chosen).cpu().float(), dim=1)
    cosine = torch.triu(rows @ rows.T, diagonal=1)
    a, b = torch.nonzero(cosine >= NEAR, as_tuple=True)
    pairs = zip(a.tolist(), b.tolist(), cosine[a, b].tolist(), strict=True)
    write_near(db, sae.info.sae_id, [(features[i], features[j], c) for i, j, c in pairs])


def _settings(config: SelectionConfig) -> dict[str, Any]:
    """Settings that can change a figure."""
    return config.model_dump(mode="json", exclude={"batch_tokens"})


def _check_names(saes: Sequence[SAE]) -> None:
    names = [sae.info.sae_id for sae in saes]
    if not names:
        raise ConfigError("no SAE to select from; name folders or releases with --sae")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two SAEs are called {twice[0]!r}; rename one of them")


def _record(
    db: Db, sae: SAE, identity: str, run: Pass, concepts: Sequence[Concept], config: SelectionConfig
) -> None:
    """Write one SAE's figures to the store."""
    total = reduce(add, run.parts(sae))
    row = SelectionRow(
        selection_id=identity,
        sae_id=sae.info.sae_id,
        concept_set=concept_set_hash(concepts),
        settings=_settings(config),
        l0=total.tally.l0,
        fvu=None if sae.decoder is None else total.tally.fvu(total.spread),
        seconds=total.tally.seconds + total.seconds,
    )
    write_selection(db, row, _pieces(sae, run, concepts, config, total.domains))


def _pieces(
    sae: SAE, run: Pass, concepts: Sequence[Concept], config: SelectionConfig, sums: Mapping[str, Sums]
) -> Iterator[SelectionPiece]:
    domains = {concept.concept_id: concept.domain for concept in concepts}
    with run.clock("contrast"):
        reader = SaeReader(run.parts(sae), domains, sae.info.d_sae, config)
    for part in run.parts(sae):
        with run.clock("contrast"):
            piece = reader.read(part)
        yield piece
    groups = [*group_rows(sums, config.controls), *detection_rows(reader.detections, config.controls)]
    yield SelectionPiece(groups)

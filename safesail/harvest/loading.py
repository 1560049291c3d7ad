"""Harvests as the command line runs them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from safesail.harvest.config import HarvestConfig
from safesail.harvest.engine import Cluster, Engine, Loaded, LocalEngine, RayEngine
from safesail.harvest.feature_list import read_feature_list
from safesail.harvest.run import HarvestJob, HarvestReport, harvest
from safesail.resources import expand
from safesail.sae.load import open_saes
from safesail.sae.protocol import SAE
from safesail.store.connection import Db, open_writer
from safesail.store.selection import candidate_features
from safesail.subject.loading import ModelConfig, load_subject


@dataclass(frozen=True)
class HarvestInput:
    """What a harvest reads, by name."""

    saes: Sequence[str]
    sources: Sequence[str]
    """Files, folders, `hf:NAME[:split]`, or `-` for standard input."""

    listed: Path | None = None
    """File that lists the features to keep, with `features: listed`."""

    cluster: Cluster | None = None
    """Ray workers that shards run on; None: here."""


def run_harvest(
    store: Path,
    model: ModelConfig,
    what: HarvestInput,
    config: HarvestConfig,
    *,
    replace: bool = False,
    quiet: bool = False,
) -> HarvestReport:
    """Load what a harvest needs, and run it.

    Args:
        store: The DuckDB file.
        model: The subject model, and where it runs.
        what: SAEs, sources of text, list of features.
        config: Settings.
        replace: Drop what the store holds of these SAEs from another harvest.
        quiet: No progress bar.

    Raises:
        SafeSailError: as `safesail.harvest.run.harvest`, `open_saes` and `load_subject`.
    """
    engine = _engine(model, what.cluster, what.saes)  # fails before the model is loaded, where Ray is missing
    subject = load_subject(model, quiet=quiet)
    saes = open_saes(what.saes, subject, device=model.device)
    with open_writer(store) as db:
        keep = _kept(db, saes, config, what.listed)
        job = HarvestJob(subject, saes, [expand(source) for source in what.sources], config, keep)
        return harvest(db, job, engine=engine, replace=replace, quiet=quiet)


def _kept(
    db: Db, saes: Sequence[SAE], config: HarvestConfig, listed: Path | None
) -> dict[str, NDArray[np.bool_]] | None:
    """By sae_id, whose nonzeros are kept; None keeps all, or leaves it to `HarvestJob` to say what is missing."""
    if config.features == "listed" and listed is not None:
        return read_feature_list(listed, [sae.info for sae in saes])
    if config.features != "candidates":
        return None
    keep: dict[str, NDArray[np.bool_]] = {}
    for sae in saes:
        mask = np.zeros(sae.info.d_sae, dtype=bool)
        mask[[c.feature for c in candidate_features(db, sae.info.sae_id)]] = True
        keep[sae.info.sae_id] = mask
    return keep


def _engine(model: ModelConfig, cluster: Cluster | None, specs: Sequence[str]) -> Engine:
    if cluster is None:
        return LocalEngine()
    return RayEngine(partial(_load_on_worker, model, tuple(specs)), cluster, model.threads)


def _load_on_worker(model: ModelConfig, specs: tuple[str, ...]) -> Loaded:
    subject = load_subject(model)
    return subject, open_saes(specs, subject, device=model.device)

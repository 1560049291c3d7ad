"""What several stages need opened: the subject model, its SAEs, the store."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from safesail.errors import ConfigError
from safesail.harvest.config import HarvestConfig
from safesail.harvest.engine import Cluster, Engine, Loaded, LocalEngine, RayEngine
from safesail.harvest.run import HarvestJob, HarvestReport
from safesail.resources import cache_dir, expand
from safesail.sae.protocol import SAE
from safesail.store.connection import Db
from safesail.subject.model import SubjectModel


@dataclass(frozen=True)
class Machine:
    """The subject model and where it runs."""

    model: str
    device: str = "auto"
    dtype: str = "float32"
    threads: int | None = None
    cluster: Cluster | None = None
    """Ray workers that a harvest's shards run on; None: here."""

    def load(self, *, quiet: bool) -> SubjectModel:
        """Fetch the model where it is not here yet, and load it.

        Raises:
            SubjectError: it cannot be fetched or loaded.
        """
        from safesail.subject.device import choose_device
        from safesail.subject.fetch import fetch

        fetch(self.model, cache=cache_dir(), quiet=quiet)
        return SubjectModel.load(
            self.model, device=choose_device(self.device), dtype=self.dtype, threads=self.threads
        )


def open_saes(specs: Sequence[str], subject: SubjectModel, *, device: str = "auto") -> list[SAE]:
    """Load SAEs: folders (patterns allowed), checkpoints, or `release/id` of SAELens' directory.

    Raises:
        ConfigError: nothing matches, or two SAEs have one name.
        SaeError: one of them is damaged or does not fit the subject model.
    """
    from safesail.sae.load import find_saes, open_sae
    from safesail.subject.device import choose_device

    found = find_saes([expand(spec) for spec in specs])
    if not found:
        raise ConfigError(f"no SAE matches {', '.join(specs)}; name a folder with cfg.json, or release/id")
    saes = [open_sae(str(spec), model=subject.info, device=choose_device(device)) for spec in found]
    names = [sae.info.sae_id for sae in saes]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two SAEs are called {twice[0]!r}; rename one folder")
    return saes


@dataclass(frozen=True)
class HarvestInput:
    """What a harvest reads, by name."""

    saes: Sequence[str]
    sources: Sequence[str]
    """Files, folders, `hf:NAME[:split]`, or `-` for standard input."""

    listed: Path | None = None
    """File that lists the features to keep, with `features: listed`."""


def run_harvest(
    store: Path,
    machine: Machine,
    what: HarvestInput,
    config: HarvestConfig,
    *,
    replace: bool = False,
    quiet: bool = False,
) -> HarvestReport:
    """Load what a harvest needs, and run it.

    Args:
        store: The DuckDB file.
        machine: The subject model, and where it runs.
        what: SAEs, sources of text, list of features.
        config: Settings.
        replace: Drop what the store holds of these SAEs from another harvest.
        quiet: No progress bar.

    Raises:
        SafeSailError: as `safesail.harvest.run.harvest`, `open_saes` and `Machine.load`.
    """
    from safesail.harvest.run import harvest
    from safesail.store.connection import open_writer

    engine = _engine(machine, what.saes)  # fails before the model is loaded, where Ray is missing
    subject = machine.load(quiet=quiet)
    saes = open_saes(what.saes, subject, device=machine.device)
    with open_writer(store) as db:
        keep = _kept(db, saes, config, what.listed)
        job = HarvestJob(subject, saes, [expand(source) for source in what.sources], config, keep)
        return harvest(db, job, engine=engine, replace=replace, quiet=quiet)


def _kept(
    db: Db, saes: Sequence[SAE], config: HarvestConfig, listed: Path | None
) -> dict[str, NDArray[np.bool_]] | None:
    """By sae_id, whose nonzeros are kept; None keeps all, or leaves it to `HarvestJob` to say what is missing."""
    from safesail.harvest.listed import read_listed
    from safesail.store.selection import candidate_features

    if config.features == "listed" and listed is not None:
        return read_listed(listed, [sae.info for sae in saes])
    if config.features != "candidates":
        return None
    keep: dict[str, NDArray[np.bool_]] = {}
    for sae in saes:
        mask = np.zeros(sae.info.d_sae, dtype=bool)
        mask[[c.feature for c in candidate_features(db, sae.info.sae_id)]] = True
        keep[sae.info.sae_id] = mask
    return keep


def _engine(machine: Machine, specs: Sequence[str]) -> Engine:
    if machine.cluster is None:
        return LocalEngine()
    return RayEngine(partial(_load_on_worker, machine, tuple(specs)), machine.cluster, machine.threads)


def _load_on_worker(machine: Machine, specs: tuple[str, ...]) -> Loaded:
    subject = machine.load(quiet=True)
    return subject, open_saes(specs, subject, device=machine.device)

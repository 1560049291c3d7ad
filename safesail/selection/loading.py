"""Selection as the command line and pipelines run it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safesail.domain.records import Concept
from safesail.errors import ConfigError
from safesail.sae.load import open_saes
from safesail.selection.config import SelectionConfig
from safesail.selection.near import record_near
from safesail.selection.result import SelectionResult
from safesail.selection.run import select
from safesail.store.connection import open_writer
from safesail.subject.aliases import resolve, unknown_model
from safesail.subject.loading import ModelConfig, load_subject


def candidates_of(model: str, saes: Sequence[str]) -> list[str]:
    """The SAEs named, or those that come along for the model.

    Raises:
        SubjectError: there is no such model.
        ConfigError: none is named and none comes along.
    """
    alias = resolve(model)
    if alias is None and not Path(model).is_dir() and model.count("/") != 1:
        raise unknown_model(model)
    if saes:
        return list(saes)
    if alias is not None and alias.local_saes:
        return [f"bundled:data/saes/{alias.name}-*"]
    raise ConfigError(f"no SAEs for {model} come along; name some with --sae, or list releases with --plan")


def run_selection(
    store: Path,
    model: ModelConfig,
    saes: Sequence[str],
    concepts: Sequence[Concept],
    config: SelectionConfig,
    *,
    quiet: bool,
) -> SelectionResult:
    """Load what a selection needs, and run it.

    Raises:
        SafeSailError: as `safesail.selection.run.select`, `open_saes` and `load_subject`.
    """
    names = candidates_of(model.model, saes)
    subject = load_subject(model, quiet=quiet)
    candidates = open_saes(names, subject, device=model.device)
    with open_writer(store) as db:
        found = select(db, subject, candidates, concepts, config, quiet=quiet)
        for sae in candidates:
            record_near(db, sae)
        return found


def plan_rows(model: str, saes: Sequence[str]) -> list[dict[str, Any]]:
    """What a selection would load: one row a candidate, without a network."""
    from safesail.selection.plan import plan

    return [row.cells() for row in plan(model, list(saes))]

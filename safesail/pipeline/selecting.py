"""Selection as the command line and pipelines run it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safesail.domain.records import Concept
from safesail.errors import ConfigError
from safesail.pipeline.alike import record_near
from safesail.pipeline.tools import Machine, open_saes
from safesail.resources import expand
from safesail.selection.concepts import read_concepts
from safesail.selection.config import SelectionConfig
from safesail.selection.result import SelectionResult
from safesail.selection.run import select
from safesail.store.connection import open_writer
from safesail.subject.aliases import resolve, unknown_model

OWN_CONCEPTS = "bundled:data/concepts"


def load_concepts(sources: Sequence[str], domains: Sequence[str] = ()) -> list[Concept]:
    """Concept sets, those that come along where none is named, narrowed to `domains` where some are.

    Raises:
        ConfigError: a set is wrong, or has no concept of a domain.
    """
    concepts = read_concepts([expand(source) for source in sources or (OWN_CONCEPTS,)])
    if missing := sorted(set(domains) - {c.domain for c in concepts}):
        known = ", ".join(sorted({c.domain for c in concepts}))
        raise ConfigError(f"no concept of domain {missing[0]!r}; there are {known}")
    return [c for c in concepts if not domains or c.domain in domains]


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
    machine: Machine,
    saes: Sequence[str],
    concepts: Sequence[Concept],
    config: SelectionConfig,
    *,
    quiet: bool,
) -> SelectionResult:
    """Load what a selection needs, and run it.

    Raises:
        SafeSailError: as `safesail.selection.run.select`, `open_saes` and `Machine.load`.
    """
    names = candidates_of(machine.model, saes)
    subject = machine.load(quiet=quiet)
    candidates = open_saes(names, subject, device=machine.device)
    with open_writer(store) as db:
        found = select(db, subject, candidates, concepts, config, quiet=quiet)
        for sae in candidates:
            record_near(db, sae)
        return found


def plan_rows(model: str, saes: Sequence[str]) -> list[dict[str, Any]]:
    """What a selection would load: one row a candidate, without a network."""
    from safesail.selection.plan import plan

    return [row.cells() for row in plan(model, list(saes))]

"""What a pipeline takes, measured on a tenth of it: the stages' own code, in stores that are thrown away."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from safesail.autointerp.clients import ChatSettings
from safesail.autointerp.pricing import Cost
from safesail.autointerp.run import run_plan
from safesail.autointerp.usual import Usual, stand_in_store
from safesail.domain.records import Concept
from safesail.llm.factory import BUILT_IN
from safesail.pipeline.clock import StageClock, StageTime
from safesail.pipeline.config import PipelineConfig
from safesail.pipeline.plan.text import pairs_of
from safesail.resources import expand
from safesail.store.calls import ledger_rows
from safesail.store.connection import Db, open_writer

if TYPE_CHECKING:
    from safesail.sae.protocol import SAE
    from safesail.subject.protocol import Subject

SHARE = 10
"""One of so many concepts is selected on, and one of so many tokens is harvested."""

TOKENS = (1_024, 8_192)
"""Harvested at least and at most."""

_BUNDLED_TEXTS = "bundled:data/texts"


@dataclass(frozen=True)
class Measured:
    """What the whole pipeline takes, in proportion to its pieces."""

    load: StageTime
    select: StageTime
    harvest: StageTime | None
    """None: how much text there is, is not known."""

    explain: StageTime | None
    """Of one feature; None where an endpoint would be asked."""

    usual: Usual | None
    """Tokens that the built-in model billed; None where an endpoint would be asked."""

    best: str
    """SAE that ranks first on the concepts measured."""

    basis: str


def measure(
    config: PipelineConfig,
    concepts: Sequence[Concept],
    n_tokens: float | None,
    sample: Sequence[Sequence[str]],
    chat: ChatSettings,
) -> Measured:
    """Load what a run would load, and run pieces of every stage; nobody is asked but the built-in model.

    Args:
        config: The pipeline.
        concepts: All of them.
        n_tokens: Of the text; None: unknown.
        sample: Documents as the strings of their tokens.
        chat: Whom a run would ask.

    Raises:
        SafeSailError: as the stages.
    """
    from safesail.sae.load import open_saes
    from safesail.subject.loading import ModelConfig, load_subject

    clock = StageClock()
    subject = load_subject(ModelConfig(config.model, config.device, config.dtype))
    saes = open_saes(config.saes, subject)
    clock.end("load")
    select, best, n_pairs = _select(config, concepts, subject, saes)
    sae = next(sae for sae in saes if sae.info.sae_id == best)
    harvest, n_run = (None, 0) if n_tokens is None else _harvest(config, subject, sae, n_tokens)
    explain, usual = (None, None)
    if {chat.explainer, chat.simulator} == {BUILT_IN}:
        explain, usual = _explain(config, sample, chat)
    n_features = 0 if usual is None else usual.n_features
    return Measured(
        clock.stages["load"],
        select,
        harvest,
        explain,
        usual,
        best,
        f"measured here on {n_pairs:,} pairs, {n_run:,} tokens of text and {n_features} stand-in features",
    )


def _select(
    config: PipelineConfig, concepts: Sequence[Concept], subject: "Subject", saes: Sequence["SAE"]
) -> tuple[StageTime, str, int]:
    """Time of the selection, which SAE ranks first, and on how many pairs that was seen."""
    usable = [c for c in concepts if len(pairs_of([c], config)) > 1]
    few, more = usable[:1], usable[1::SHARE] or usable[:1]
    small, _ = _selection(config, few, subject, saes)
    large, best = _selection(config, more, subject, saes)
    n_few, n_more, n_all = (len(pairs_of(part, config)) for part in (few, more, usable))
    return _at(n_all, (n_few, small), (n_more, large)), best, n_more


def _selection(
    config: PipelineConfig, concepts: Sequence[Concept], subject: "Subject", saes: Sequence["SAE"]
) -> tuple[StageTime, str]:
    from safesail.selection.run import run_selection

    with _store() as db:
        clock = StageClock()
        result = run_selection(db, subject, saes, concepts, config.selection, quiet=True)
        clock.end("select")
    return clock.stages["select"], result.best


def _harvest(
    config: PipelineConfig, subject: "Subject", sae: "SAE", n_tokens: float
) -> tuple[StageTime, int]:
    """Time of the harvest, and on how many tokens that was seen."""
    n_more = int(min(n_tokens, max(TOKENS[0], min(TOKENS[1], n_tokens / SHARE))))
    n_few = max(1, n_more // 8)
    small, large = (_harvested(config, subject, sae, n) for n in (n_few, n_more))
    return _at(n_tokens, (n_few, small), (n_more, large)), n_more


def _harvested(config: PipelineConfig, subject: "Subject", sae: "SAE", n_tokens: int) -> StageTime:
    from safesail.harvest.run import HarvestJob, run_harvest

    near = [source for source in config.texts if not source.startswith("hf:")] or [_BUNDLED_TEXTS]
    settings = config.harvest.model_copy(update={"n_tokens": n_tokens, "features": "all"})
    job = HarvestJob(subject, [sae], [expand(source) for source in near], settings)
    with _store() as db:
        clock = StageClock()
        run_harvest(db, job, quiet=True)
        clock.end("harvest")
    return clock.stages["harvest"]


def _explain(
    config: PipelineConfig, sample: Sequence[Sequence[str]], chat: ChatSettings
) -> tuple[StageTime, Usual]:
    """Time that a feature takes with the built-in model, and what the stand-in features cost."""
    with stand_in_store(sample, config.harvest.n_ctx) as (db, plan):
        clock = StageClock()
        run_plan(db, plan, chat, config.autointerp, quiet=True)
        clock.end("explain")
        billed = ledger_rows(db, ["stage"])
    n = len(plan.features)
    time = clock.stages["explain"]
    cost = Cost(
        sum(row["calls"] for row in billed),
        sum(row["tokens in"] for row in billed),
        sum(row["tokens out"] for row in billed),
        0.0,
    )
    return StageTime(time.seconds / n, time.cpu_seconds / n), Usual(cost, n)


@contextmanager
def _store() -> Generator[Db, None, None]:
    with (
        TemporaryDirectory(prefix="safesail-plan-") as folder,
        open_writer(Path(folder) / "plan.duckdb") as db,
    ):
        yield db


def _at(n: float, small: tuple[int, StageTime], large: tuple[int, StageTime]) -> StageTime:
    """Time of `n` things on the line through two pieces: what a piece takes to begin is not multiplied."""

    def line(a: float, b: float) -> float:
        (n_a, n_b) = small[0], large[0]
        if n_a >= n_b or b <= a:
            return b * n / n_b
        return a + (b - a) * (n - n_a) / (n_b - n_a)

    return StageTime(
        line(small[1].seconds, large[1].seconds), line(small[1].cpu_seconds, large[1].cpu_seconds)
    )

"""Executes a pipeline file: select, harvest, explain and score, release."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from safesail.autointerp.clients import ChatSettings
from safesail.autointerp.ranking import FeatureChoice
from safesail.autointerp.report import RunReport
from safesail.autointerp.run import make_plan, run_plan
from safesail.catalog.release import build_release
from safesail.catalog.verify import verify_release
from safesail.concepts.read import load_concepts
from safesail.domain.records import Score
from safesail.harvest.feature_list import features_to_keep
from safesail.harvest.run import HarvestJob, HarvestReport, run_harvest
from safesail.llm.budget import parse_budget
from safesail.metrics.correlation import bootstrap_interval
from safesail.pipeline.clock import StageClock, size_of
from safesail.pipeline.config import PipelineConfig
from safesail.pipeline.summary import Interval, Summary
from safesail.resources import expand
from safesail.sae.folders import check_here
from safesail.sae.load import open_saes
from safesail.sae.protocol import SAE
from safesail.selection.result import SelectionResult
from safesail.selection.run import run_selection
from safesail.store.calls import total_tokens
from safesail.store.connection import Db, open_writer
from safesail.store.explanations import headline_scores
from safesail.store.selection import RANKING
from safesail.subject.loading import ModelConfig, load_subject
from safesail.subject.protocol import Subject
from safesail.subject.sizes import ModelSizes, sizes_of


def run_pipeline(path: Path, *, out: Path | None = None, quiet: bool = False) -> Summary:
    """Run the pipeline in the file `path`; what is done already is not done again.

    Writes `safesail.duckdb`, `release/` and `summary.json` to `out`, by default `runs/<name>`.

    Raises:
        SafeSailError: as the stages; what is finished is kept.
    """
    config = PipelineConfig.from_yaml(path)
    clock = StageClock()
    folder = Path("runs") / config.name if out is None else out
    store = folder / "safesail.duckdb"
    # Before the model is fetched, which may take hours.
    check_here(config.saes, sizes_of(config.model) or ModelSizes(config.model, None, None))
    subject = load_subject(ModelConfig(config.model, config.device, config.dtype), quiet=quiet)
    saes = open_saes(config.saes, subject)
    clock.end("load")
    with open_writer(store) as db:
        concepts = load_concepts(config.concepts, config.domains)
        chosen = run_selection(db, subject, saes, concepts, config.selection, quiet=quiet)
        sae_id = chosen.best
        clock.end("select")
        harvested = _harvest(
            db, subject, next(s for s in saes if s.info.sae_id == sae_id), config, quiet=quiet
        )
        clock.end("harvest")
        report = _explain(db, sae_id, config, quiet=quiet)
        scores = [s for s in headline_scores(db, sae_id) if s.feature in set(report.explained)]
        tokens_total = total_tokens(db)
        clock.end("explain")
    build_release(store, folder / "release", config.release, quiet=quiet)
    verify_release(folder / "release")
    clock.end("release")
    summary = Summary(
        pipeline=config.name,
        sae_id=sae_id,
        why=_why(chosen),
        features_explained=len(report.explained),
        features_scored=len(report.scored),
        features_undefined=len(report.undefined),
        features_failed=len(report.failed),
        score=mean_interval(scores, lambda s: s.value),
        chance=mean_interval(scores, lambda s: s.chance),
        tokens_spent=report.tokens,
        tokens_total=tokens_total,
        stopped_by_budget=report.stopped_by is not None,
        model_tokens=chosen.n_tokens + harvested.new_tokens,
        disk_bytes=size_of(folder),
        stages=clock.stages,
        store=str(store),
        release=str(folder / "release"),
    )
    (folder / "summary.json").write_text(json.dumps(summary.as_json(), indent=2) + "\n", encoding="utf-8")
    return summary


def _harvest(db: Db, subject: Subject, sae: SAE, config: PipelineConfig, *, quiet: bool) -> HarvestReport:
    keep = features_to_keep(db, [sae.info], config.harvest)
    job = HarvestJob(subject, [sae], [expand(source) for source in config.texts], config.harvest, keep)
    return run_harvest(db, job, quiet=quiet)


def _explain(db: Db, sae_id: str, config: PipelineConfig, *, quiet: bool) -> RunReport:
    chat = ChatSettings(
        explainer=config.chat.explainer,
        simulator=config.chat.simulator,
        budget=parse_budget(config.budget),
        base_url=config.chat.base_url,
        prices=config.chat.prices or None,
        concurrency=config.autointerp.concurrency,
    )
    choice = FeatureChoice(sae_id, n=config.max_features, min_windows=config.min_windows)
    return run_plan(db, make_plan(db, choice, config.autointerp), chat, config.autointerp, quiet=quiet)


def _why(chosen: SelectionResult) -> str:
    """Why the SAE was chosen, in one line."""
    best = chosen.ranked[0].sae
    others = len(chosen.ranked) - 1
    interval = "" if best.low is None or best.high is None else f" [{best.low:.3f}, {best.high:.3f}]"
    value = "undefined" if best.value is None else f"{best.value:.3f}{interval}"
    return f"{RANKING} of concepts {value}, the highest; {others} other candidates scored"


def mean_interval(
    scores: Sequence[Score], figure: Callable[[Score], float | None], *, seed: int = 0
) -> Interval | None:
    """Mean of a figure over the features that have it, with a 95 % bootstrap interval over features."""
    values = np.array([v for s in scores if (v := figure(s)) is not None])
    if len(values) < 2:
        return None
    interval = bootstrap_interval(
        lambda items: float(values[items].mean()), len(values), draws=2000, seed=seed
    )
    if not isinstance(interval, tuple):
        return None
    return Interval(float(values.mean()), *interval)

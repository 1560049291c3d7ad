"""Makes the plan of a pipeline file: loads nothing and asks nobody, unless it is told to measure."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from safesail.autointerp.clients import ChatSettings
from safesail.autointerp.usual import Usual, usual_cost
from safesail.concepts.read import load_concepts
from safesail.errors import ConfigError
from safesail.llm.budget import Budget, parse_budget
from safesail.pipeline.clock import StageTime
from safesail.pipeline.config import PipelineConfig
from safesail.pipeline.plan import costs
from safesail.pipeline.plan.costs import Speed, Stage
from safesail.pipeline.plan.estimate import Estimate
from safesail.pipeline.plan.measure import Measured, measure
from safesail.pipeline.plan.parts import SaePart, model_part, sae_parts
from safesail.pipeline.plan.result import RunPlan
from safesail.pipeline.plan.text import SAMPLE_TOKENS, count_pairs, count_texts, open_tokenizer
from safesail.resources import resource_dir
from safesail.text.documents import read_documents


def plan_pipeline(
    path: Path,
    *,
    out: Path | None = None,
    speed: Speed | None = None,
    call_seconds: float | None = None,
    measured: bool = False,
) -> RunPlan:
    """What running the pipeline in the file `path` would take.

    Args:
        path: The pipeline's file.
        out: Where it would write; by default `runs/<name>`.
        speed: Of the machine, as stated; None: this one's cores, at an assumed speed.
        call_seconds: What an endpoint takes for a call, as stated.
        measured: Load the model and measure on a tenth of the pipeline instead.

    Raises:
        SafeSailError: the pipeline cannot work: a setting, a model, an SAE, a concept or a text is wrong or missing.
    """
    config = PipelineConfig.from_yaml(path)
    model = model_part(config.model)
    saes = sae_parts(config.saes, model)
    concepts, tokenizer = load_concepts(config.concepts, config.domains), open_tokenizer(config.model)
    pairs, text = count_pairs(concepts, config, tokenizer), count_texts(config, tokenizer)
    chat = _chat(config)
    sample = _enough(text.sample, tokenizer.cut)
    timings = measure(config, concepts, text.tokens.value, sample, chat) if measured else None
    usual = _usual(sample, config, chat, timings)
    speed = costs.cpu_speed(os.cpu_count() or 1, config.dtype) if speed is None else speed
    sae, why = _chosen(saes, timings)
    n = config.max_features
    budget = parse_budget(config.budget)
    finished = costs.affordable(usual.of(1), n, budget)
    if budget.unit == "dollars" and finished is None:
        raise ConfigError(
            f"{path}: a budget in dollars needs the models' prices; name them under chat.prices"
        )
    n_explained = n if finished is None else finished
    basis = (
        f"{usual.n_features} stand-in features made of the text's words, with all windows that are asked for"
    )
    stages = [
        costs.fetch(model, saes, text),
        costs.load(model, saes, config.dtype),
        costs.select(model, saes, pairs, speed),
        costs.harvest(model, sae, text, config, speed, why),
        costs.explain(usual.of(n_explained), n_explained, config, call_seconds, basis),
        costs.release(n_explained),
    ]
    if timings is not None:
        stages = _with_times(stages, timings, finished or 0)
    folder = Path("runs") / config.name if out is None else out
    return RunPlan(config.name, model, saes, stages, n, finished, config.budget, _free(folder), _memory())


def _chat(config: PipelineConfig) -> ChatSettings:
    """Whom the pipeline would ask, as if its budget had no end."""
    return ChatSettings(
        config.chat.explainer, config.chat.simulator, Budget("unlimited", float("inf")),
        config.chat.base_url, config.chat.prices or None, concurrency=config.autointerp.concurrency,
    )  # fmt: skip


def _usual(
    sample: Sequence[Sequence[str]], config: PipelineConfig, chat: ChatSettings, timings: Measured | None
) -> Usual:
    if timings is not None and timings.usual is not None:
        return timings.usual
    return usual_cost(sample, config.harvest.n_ctx, chat, config.autointerp)


def _chosen(saes: Sequence[SaePart], timings: Measured | None) -> tuple[SaePart, str]:
    """The SAE that is harvested, and why it is taken for the one that ranks first."""
    if timings is not None:
        best = next(sae for sae in saes if timings.best in (sae.name, sae.source))
        return best, "which ranks first on the concepts measured"
    ranked = sorted(saes, key=lambda sae: (sae.l0 or 0, sae.layer or 0))
    return ranked[(len(ranked) - 1) // 2], "taken for the one that ranks first: the middle one by L0"


def _with_times(stages: Sequence[Stage], timings: Measured, n: int) -> list[Stage]:
    """The stages with the times that were measured in place of those assumed."""
    each = timings.explain
    times = {
        "load": timings.load,
        "select": timings.select,
        "harvest": timings.harvest,
        "explain": None if each is None else StageTime(each.seconds * n, each.cpu_seconds * n),
    }
    return [_timed(stage, times.get(stage.stage), timings.basis) for stage in stages]


def _timed(stage: Stage, time: StageTime | None, basis: str) -> Stage:
    if time is None:
        return stage
    return replace(
        stage, seconds=Estimate(time.seconds, basis), cpu_seconds=Estimate(time.cpu_seconds, basis)
    )


def _enough(sample: Sequence[list[str]], cut: Callable[[str], list[str]]) -> list[list[str]]:
    """Documents that stand-in features can be made of: where few of the pipeline's are here, bundled ones join."""
    documents, n = list(sample), sum(map(len, sample))
    bundled = read_documents([str(resource_dir("data") / "texts")])
    while n < SAMPLE_TOKENS and (document := next(bundled, None)) is not None:
        documents.append(cut(document.text))
        n += len(documents[-1])
    return documents


def _free(folder: Path) -> int:
    """Bytes free where a folder is, or would be."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

"""The plan's formulas. Each constant says where it comes from; README.md has them in a table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from safesail.autointerp.pricing import Cost
from safesail.harvest.config import HarvestConfig
from safesail.llm.budget import Budget
from safesail.llm.factory import BUILT_IN
from safesail.pipeline.config import PipelineConfig
from safesail.pipeline.plan.estimate import Estimate, total
from safesail.pipeline.plan.parts import BYTES, ModelPart, SaePart
from safesail.pipeline.plan.text import PairPart, TextPart

CORE_FLOPS = 70e9
"""Multiplications and additions per second of one CPU core in float32, as measured for encoders and SmolLM2."""

FIGURE_SECONDS = 0.0042
"""Of one core for the figures of one SAE on one pair, 400 resamples, as the demo takes."""

FEATURE_SECONDS = 0.2
"""Of one core to explain and score a feature with the built-in model, as the demo takes."""

RELEASE_SECONDS = 0.02
"""Of one core per feature released, as the demo takes."""

LOAD_SECONDS = 15.0
"""Of one core to import the libraries and load a small model, as the demo takes."""

LOAD_BYTES_PER_SECOND = 1e9
"""Of weights read from disk, beyond what LOAD_SECONDS has in it."""

BASE_MEMORY = 650e6
"""Of a process that has imported everything and loaded nothing."""

WORK_MEMORY = 150e6
"""Of batches, of a shard and of the store."""

EMPTY_STORE = 2e6
"""A block for each column group of every table."""

SELECTION_BYTES = 10_800
"""In the store, per SAE and concept: figures, the features that respond and how they separate, more than half of it
the indexes; as the demo takes."""

NONZERO_BYTES = {"f32": 4.4, "u8": 2.3}
"""In the store, measured on 25.6M nonzeros."""

TEXT_BYTES = 10.0
"""In the store, per token: the text, its tokens and their ids."""

FEATURE_BYTES = 85.0
"""A row of statistics."""

CALL_BYTES = 2.7
"""In the store, per LLM token: the question and the answer, packed."""

RELEASE_BYTES = 1_600
"""Per feature released, exemplars and all."""

CANDIDATES = 2
"""Candidates that a selection nominates, in multiples of those that are explained: assumed."""


@dataclass(frozen=True)
class Speed:
    """What the machine does in a second."""

    model_flops: Estimate
    encoder_flops: Estimate


@dataclass(frozen=True)
class Stage:
    """What one stage takes."""

    stage: str
    seconds: Estimate
    cpu_seconds: Estimate | None = None
    """Where it was measured."""

    download: Estimate | None = None
    disk: Estimate | None = None
    memory: Estimate | None = None
    model_tokens: Estimate | None = None
    llm_calls: Estimate | None = None
    llm_tokens: Estimate | None = None
    dollars: Estimate | None = None


def stated_speed(model: float, encoder: float) -> Speed:
    """What the user says of the machine, in operations per second."""
    basis = f"{model / 1e12:g} TFLOP/s for the model and {encoder / 1e12:g} for SAEs, as stated"
    return Speed(Estimate(model, basis), Estimate(encoder, basis))


def cpu_speed(cores: int, dtype: str) -> Speed:
    """What a machine without a stated speed is assumed to do."""
    flops = cores * CORE_FLOPS
    encoder = Estimate(flops, f"{cores} CPU cores of {CORE_FLOPS / 1e9:.0f} GFLOP/s each, assumed")
    if dtype in ("float32", "tf32"):
        return Speed(encoder, encoder)
    why = f"{dtype} is 8 to 150 times slower than float32 on a CPU; say --tflops of the GPU"
    return Speed(Estimate(None, why), encoder)


def fetch(model: ModelPart, saes: Sequence[SaePart], text: TextPart) -> Stage:
    """What has to be downloaded, and is kept."""
    weights = total([model.download, *(sae.download for sae in saes)], "weights of the model and all SAEs")
    return Stage(
        "fetch",
        Estimate(0, "nothing to fetch")
        if weights.value == 0
        else Estimate(None, "the network's speed is not known"),
        download=total([weights, text.download], "weights and texts"),
        disk=weights,
    )


def load(model: ModelPart, saes: Sequence[SaePart], dtype: str) -> Stage:
    """The model and all SAEs in memory at once."""
    weights = model.parameters * BYTES[dtype] + total([sae.parameters for sae in saes], "all SAEs") * 4
    beside = BASE_MEMORY + WORK_MEMORY
    of = f"the model in {dtype}, {len(saes)} SAEs in float32, and {beside / 1e9:.1f} GB beside them"
    rate = f"{LOAD_SECONDS:.0f} s and {LOAD_BYTES_PER_SECOND / 1e9:.0f} GB/s, assumed"
    return Stage(
        "load",
        (weights / LOAD_BYTES_PER_SECOND + LOAD_SECONDS).on(rate),
        memory=(weights + beside).on(of),
    )


def select(model: ModelPart, saes: Sequence[SaePart], pairs: PairPart, speed: Speed) -> Stage:
    """Every pair once through the model to the deepest hook, and through every SAE."""
    run = _run_seconds(pairs.tokens, model, saes, speed)
    figures = FIGURE_SECONDS * len(saes) * pairs.n_pairs
    n_bytes = SELECTION_BYTES * len(saes) * pairs.n_concepts + pairs.n_bytes
    basis = f"{run.basis}; figures {FIGURE_SECONDS * 1000:.1f} ms per SAE and pair"
    return Stage(
        "select",
        (run + figures).on(basis),
        disk=Estimate(n_bytes, f"{SELECTION_BYTES:,} bytes per SAE and concept, and the pairs"),
        model_tokens=pairs.tokens,
    )


def harvest(
    model: ModelPart, sae: SaePart, text: TextPart, config: PipelineConfig, speed: Speed, why: str
) -> Stage:
    """The text once through the model to the chosen SAE's hook; `why` it is taken for the chosen one."""
    run = _run_seconds(text.tokens, model, [sae], speed)
    chosen = f"{sae.name}, {why}"
    return Stage(
        "harvest",
        run.on(f"{run.basis}; {chosen}"),
        disk=_harvest_disk(sae, text, config, chosen),
        model_tokens=text.tokens,
    )


def _harvest_disk(sae: SaePart, text: TextPart, config: PipelineConfig, chosen: str) -> Estimate:
    kept = _kept(sae, text, config.harvest, config.max_features)
    each = NONZERO_BYTES[config.harvest.precision]
    statistics = FEATURE_BYTES * (sae.d_sae or 0)
    return (kept * each + text.tokens * TEXT_BYTES + statistics).on(
        f"{kept.basis}, {each} bytes each; {TEXT_BYTES:.0f} bytes per token of text; {chosen}"
    )


def explain(cost: Cost, n: int, config: PipelineConfig, call_seconds: float | None, basis: str) -> Stage:
    """So many features explained and scored, at this cost together."""
    builtin = {config.chat.explainer, config.chat.simulator} == {BUILT_IN}
    seconds = Estimate(None, "an endpoint's speed is not known before it is asked; say --call-seconds")
    if builtin:
        seconds = Estimate(FEATURE_SECONDS * n, f"{FEATURE_SECONDS} s per feature, as the demo takes")
    elif call_seconds is not None:
        at_once = config.autointerp.concurrency
        seconds = Estimate(
            cost.calls * call_seconds / at_once, f"{call_seconds:g} s a call as stated, {at_once} at once"
        )
    dollars = Estimate(cost.dollars, "the pipeline's prices")
    if builtin:
        dollars = Estimate(0, "the built-in model costs nothing")
    elif cost.dollars is None:
        dollars = Estimate(None, "the models have no price; name them under chat.prices")
    return Stage(
        "explain",
        seconds,
        disk=Estimate(CALL_BYTES * cost.tokens, f"{CALL_BYTES} bytes per LLM token"),
        llm_calls=Estimate(cost.calls, basis),
        llm_tokens=Estimate(round(cost.tokens), basis),
        dollars=dollars,
    )


def release(n: int) -> Stage:
    """The release of so many features."""
    return Stage(
        "release",
        Estimate(RELEASE_SECONDS * n, f"{RELEASE_SECONDS} s per feature, as the demo takes"),
        disk=Estimate(
            EMPTY_STORE + RELEASE_BYTES * n, "the store's own blocks, and 1.6 kB per feature released"
        ),
    )


def affordable(per_feature: Cost, n: int, budget: Budget) -> int | None:
    """Of `n` features, those that the budget finishes; None: a budget in dollars without prices.

    A call's worst case is reserved before it is sent, so as much is left over.
    """
    each, reserve = per_feature.tokens, per_feature.worst_gap
    match budget.unit:
        case "unlimited":
            return n
        case "calls":
            each, reserve = float(per_feature.calls), 0.0
        case "dollars":
            if per_feature.dollars is None:
                return None
            reserve *= per_feature.dollars / max(1.0, per_feature.tokens)
            each = per_feature.dollars
        case "tokens":
            pass
    return n if each == 0 else max(0, min(n, math.floor((budget.amount - reserve) / each)))


def _deepest(model: ModelPart, saes: Sequence[SaePart]) -> Estimate:
    """Multiplications and additions for one token up to the deepest hook."""
    depth = max((sae.layer for sae in saes if sae.layer is not None), default=None)
    if depth is None:
        return Estimate(None, "no SAE says at which layer it sits")
    return model.layer_parameters * (2 * (depth + 1))


def _run_seconds(tokens: Estimate, model: ModelPart, saes: Sequence[SaePart], speed: Speed) -> Estimate:
    """Tokens through the model to the deepest hook, and through the encoders."""
    encoders = total([sae.encoder_flops for sae in saes], "all encoders")
    each = _deepest(model, saes) / speed.model_flops + encoders / speed.encoder_flops
    return (tokens * each).on(speed.model_flops.basis)


def _kept(sae: SaePart, text: TextPart, config: HarvestConfig, n_features: int) -> Estimate:
    """Nonzeros that stay in the store."""
    if sae.l0 is None or sae.d_sae is None:
        return Estimate(None, f"nobody says how many features of {sae.name} are active on a token")
    l0, share, basis = sae.l0, 1.0, f"{sae.l0:g} nonzeros per token"
    if config.features != "all":
        n_kept = min(CANDIDATES * n_features, sae.d_sae)
        share = min(1.0, n_kept / sae.d_sae + config.whole_documents)
        basis = (
            f"{basis}, of which {share:.1%} are kept ({n_kept} candidates of average density, assumed, and "
            f"{config.whole_documents:.0%} of the documents whole)"
        )
    return (text.tokens * (l0 * share)).on(basis)

"""The plan's formulas. Each constant says where it comes from; README.md has them in a table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from safesail.autointerp.pricing import Cost
from safesail.harvest.config import HarvestConfig
from safesail.llm.budget import Budget
from safesail.llm.factory import BUILT_IN
from safesail.pipeline.config import PipelineConfig
from safesail.pipeline.plan.estimate import Estimate, derived, total
from safesail.pipeline.plan.parts import BYTES, ModelPart, SaePart
from safesail.pipeline.plan.text import PairPart, TextPart

CORE_FLOPS = 70e9
"""Multiplications and additions per second of one CPU core in float32, as measured for encoders and SmolLM2."""

FIGURE_SECONDS = 0.0042
"""Of one core for the figures of one SAE on one pair, 400 resamples, as the demo takes."""

FEATURE_SECONDS = 0.38
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

SELECTION_BYTES = 4_800
"""In the store, per SAE and concept: figures, their index, and the features that respond."""

NONZERO_BYTES = {"f32": 4.4, "u8": 2.3}
"""In the store, measured on 25.6M nonzeros."""

BIN_BYTES, BINS_PER_FEATURE = 12.8, 128
"""A row of a feature's histogram, and how many values of a feature fill without end."""

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

    model_flops: float
    encoder_flops: float
    basis: str


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


def cpu_speed(cores: int) -> Speed:
    """What a machine without a stated speed is assumed to do."""
    flops = cores * CORE_FLOPS
    return Speed(flops, flops, f"{cores} CPU cores of {CORE_FLOPS / 1e9:.0f} GFLOP/s each, assumed")


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
    weights = derived(f"the model in {dtype}", lambda n: n * BYTES[dtype], model.parameters)
    encoders = derived("SAEs in float32", lambda n: 4 * n, total([s.parameters for s in saes], "all SAEs"))
    both = total([weights, encoders], f"the model in {dtype}, {len(saes)} SAEs in float32")
    return Stage(
        "load",
        derived(
            f"{LOAD_SECONDS:.0f} s and {LOAD_BYTES_PER_SECOND / 1e9:.0f} GB/s, assumed",
            lambda n: LOAD_SECONDS + n / LOAD_BYTES_PER_SECOND,
            both,
        ),
        memory=derived(f"{both.basis}, and {(BASE_MEMORY + WORK_MEMORY) / 1e9:.1f} GB beside them",
                       lambda n: n + BASE_MEMORY + WORK_MEMORY, both),
    )  # fmt: skip


def select(model: ModelPart, saes: Sequence[SaePart], pairs: PairPart, speed: Speed) -> Stage:
    """Every pair once through the model to the deepest hook, and through every SAE."""
    deepest = _deepest(model, saes)
    encoders = total([sae.encoder_flops for sae in saes], "all encoders")
    figures = FIGURE_SECONDS * len(saes) * pairs.n_pairs
    n_bytes = SELECTION_BYTES * len(saes) * pairs.n_concepts + pairs.n_bytes
    return Stage(
        "select",
        derived(
            f"{speed.basis}; figures {FIGURE_SECONDS * 1000:.1f} ms per SAE and pair",
            lambda n, flops, enc: n * _per_token(flops, enc, speed) + figures,
            pairs.tokens, deepest, encoders,
        ),
        disk=Estimate(n_bytes, f"{SELECTION_BYTES:,} bytes per SAE and concept, and the pairs"),
        model_tokens=pairs.tokens,
    )  # fmt: skip


def harvest(
    model: ModelPart, sae: SaePart, text: TextPart, config: PipelineConfig, speed: Speed, why: str
) -> Stage:
    """The text once through the model to the chosen SAE's hook; `why` it is taken for the chosen one."""
    kept = _kept(sae, text, config.harvest, config.max_features)
    all_of = derived("all nonzeros", lambda n: n * (sae.l0 or 0), text.tokens)
    return Stage(
        "harvest",
        derived(
            f"{speed.basis}; {sae.name}, {why}",
            lambda n, flops, enc: n * _per_token(flops, enc, speed),
            text.tokens, _deepest(model, [sae]), sae.encoder_flops,
        ),
        disk=derived(
            f"{kept.basis}, {NONZERO_BYTES[config.harvest.precision]} bytes each; histograms; {TEXT_BYTES:.0f} bytes "
            f"per token of text; {sae.name}, {why}",
            lambda n, of_all, tokens: n * NONZERO_BYTES[config.harvest.precision]
            + _histograms(of_all, sae.d_sae or 0) + FEATURE_BYTES * (sae.d_sae or 0) + TEXT_BYTES * tokens,
            kept, all_of, text.tokens,
        ),
        model_tokens=text.tokens,
    )  # fmt: skip


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
    layers = [sae.layer for sae in saes]
    depth = max((layer for layer in layers if layer is not None), default=None)
    if depth is None:
        return Estimate(None, "no SAE says at which layer it sits")
    return derived(
        "2 x weights of the layers up to the hook", lambda n: 2 * n * (depth + 1), model.layer_parameters
    )


def _per_token(model_flops: float, encoder_flops: float, speed: Speed) -> float:
    return model_flops / speed.model_flops + encoder_flops / speed.encoder_flops


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
    return derived(basis, lambda n: n * l0 * share, text.tokens)


def _histograms(nonzeros: float, d_sae: int) -> float:
    """Bytes of the histograms of all features, whose bins fill as values come."""
    if d_sae == 0:
        return 0.0
    return BIN_BYTES * d_sae * BINS_PER_FEATURE * -math.expm1(-nonzeros / d_sae / BINS_PER_FEATURE)

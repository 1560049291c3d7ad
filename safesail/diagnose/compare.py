"""Two sets of prompts: which features differ, and how much of one language is left in another. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Int

from safesail.diagnose.config import CompareConfig
from safesail.diagnose.known import KnownFeatures
from safesail.domain.ids import layer_of
from safesail.domain.records import SaeInfo
from safesail.domain.undefined import Undefined
from safesail.metrics.correlation import percentile_interval
from safesail.metrics.effects import benjamini_hochberg
from safesail.metrics.permutation import jaccard, permutation_p

COLUMNS = (
    "layer", "feature", "share_a", "share_b", "difference", "p", "q", "explanation", "score", "chance_score",
    "above_chance", "tags",
)  # fmt: skip
"""share_a, share_b: share of a prompt's tokens on which the feature fires, mean over prompts. p: of permutations of the
prompts; q: the smallest false discovery rate at which the difference is a discovery; both missing where undefined."""

_INTERVAL_DRAWS = 1_000


@dataclass(frozen=True)
class Fired:
    """Shares of tokens on which features of one SAE fire, per prompt; features that fire on no prompt left out."""

    sae: SaeInfo
    features: Int[np.ndarray, " n_features"]
    share: Float32[np.ndarray, "n_prompts n_features"]


@dataclass(frozen=True)
class Overlap:
    """How far two languages share the active features of one SAE."""

    sae: str
    layer: int | None
    translations: float | Undefined
    """Mean Jaccard index of the features active on a prompt and on its translation."""

    low: float | Undefined
    high: float | Undefined
    """95 % bootstrap interval over prompts of translations - unrelated."""

    unrelated: float | Undefined
    """The same of a prompt and the translations of all others."""


@dataclass(frozen=True)
class Comparison:
    """Two sets of prompts, held against each other."""

    n_a: int
    n_b: int
    features: pd.DataFrame
    """One row per feature that fires on two prompts at least, by p, then by difference; columns as `COLUMNS`."""

    reason: str | None
    """Why no p is defined."""

    n_shown: int
    """Features whose q is at most the level."""

    overlaps: tuple[Overlap, ...]
    """Of translations, by SAE."""


def compare(
    fired: Sequence[Fired], in_a: Bool[np.ndarray, " n_prompts"], known: KnownFeatures, config: CompareConfig
) -> Comparison:
    """Hold the prompts of one set against those of the other; p-values are over all features of all SAEs."""
    often = [
        Fired(f.sae, f.features[c], f.share[:, c]) for f in fired for c in [(f.share > 0).sum(axis=0) >= 2]
    ]
    share = (
        np.concatenate([f.share for f in often], axis=1) if often else np.zeros((len(in_a), 0), np.float32)
    )
    p = permutation_p(share, in_a, level=config.level, draws=config.draws, seed=config.seed)
    frame = pd.concat([_facts(f, known) for f in often], ignore_index=True) if often else pd.DataFrame()
    frame["share_a"], frame["share_b"] = share[in_a].mean(axis=0), share[~in_a].mean(axis=0)
    frame["difference"] = frame["share_a"] - frame["share_b"]
    undefined = isinstance(p, Undefined)
    frame["p"] = np.nan if undefined else p
    frame["q"] = np.nan if undefined else benjamini_hochberg(p)
    order = np.lexsort((-frame["difference"].abs().to_numpy(), frame["p"].to_numpy()))
    frame = frame.iloc[order].reindex(columns=list(COLUMNS)).reset_index(drop=True)
    return Comparison(
        int(in_a.sum()),
        int((~in_a).sum()),
        frame,
        p.reason if isinstance(p, Undefined) else None,
        int((frame["q"] <= config.level).sum()),
        tuple(overlap(f, in_a, config.seed) for f in fired) if config.translations else (),
    )


def overlap(fired: Fired, in_a: Bool[np.ndarray, " n_prompts"], seed: int) -> Overlap:
    """How far translations share active features, beside prompts that have nothing to do with each other."""
    layer = layer_of(fired.sae.hook)
    table = jaccard(fired.share[in_a] > 0, fired.share[~in_a] > 0)
    n = len(table)
    if n < 2:
        why = Undefined(f"{n} prompt; unrelated ones need at least 2")
        return Overlap(fired.sae.sae_id, layer, _mean(table.diagonal()), why, why, why)
    own = table.diagonal()
    others = np.nanmean(np.where(np.eye(n, dtype=bool), np.nan, table), axis=1)
    gains = (own - others)[np.isfinite(own - others)]
    drawn = np.random.default_rng(seed).choice(gains, (_INTERVAL_DRAWS, len(gains))).mean(axis=1)
    interval = percentile_interval(drawn, _INTERVAL_DRAWS)
    low, high = (interval, interval) if isinstance(interval, Undefined) else interval
    return Overlap(fired.sae.sae_id, layer, _mean(own), low, high, _mean(others))


def _mean(values: Float[np.ndarray, " n"]) -> float | Undefined:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else Undefined("no feature fires")


def _facts(fired: Fired, known: KnownFeatures) -> pd.DataFrame:
    facts = known.of(fired.sae.sae_id).reindex(fired.features).reset_index(drop=True)
    return facts.assign(
        layer=layer_of(fired.sae.hook), feature=[f"{fired.sae.sae_id}#{i}" for i in fired.features]
    )

"""Does the explanation know what the feature does? It is held against the tokens that steering makes likelier.

Every explanation is compared with every feature's tokens, by MiniLM's vectors. A feature's output score is the share
of the other features' token sets that its explanation is less like than its own; the chance line is the same share
with every other feature's explanation in its place, so that sets which are like any text gain nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from safesail.domain.ids import FeatureId
from safesail.intervene.config import InterveneConfig
from safesail.intervene.token_sets import words_of
from safesail.metrics.effects import benjamini_hochberg
from safesail.store.connection import Db
from safesail.store.effects import EffectRow, MeasuredIn, explained_outputs, write_effects
from safesail.subject.minilm import Embed, is_installed, load_embed

MIN_WORDS = 3
"""Tokens of a set that can be read as words, at least."""

MIN_FEATURES = 5
"""Features that are compared, at least."""


@dataclass(frozen=True)
class OutputScore:
    """How well an explanation picks its own feature's tokens."""

    value: float
    """In [0, 1]; 0.5 says nothing."""

    chance: tuple[float, ...]
    """The same with every other feature's explanation."""

    low: float
    high: float
    """95 % interval of value - mean chance, over the tokens of the set."""


def output_scores(
    explanations: Float[np.ndarray, "n_features d"],
    sets: Sequence[Float[np.ndarray, "n_tokens d"]],
    *,
    draws: int,
    seed: int,
) -> list[OutputScore]:
    """Scores of all features.

    Args:
        explanations: A vector per feature, of length 1.
        sets: Vectors of each feature's tokens, of length 1.
        draws: Resamples of the tokens.
        seed: Of the draws.
    """
    similarity = explanations @ _means(sets).T
    share = _shares(similarity)
    scores: list[OutputScore] = []
    for j, of_feature in enumerate(sets):
        rng = np.random.default_rng((seed, j))
        drawn = of_feature[rng.integers(0, len(of_feature), (draws, len(of_feature)))].mean(axis=1)
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        others = np.delete(similarity, j, axis=1)  # [explanation, other set]
        shares = (others[:, None, :] < (explanations @ drawn.T)[:, :, None]).mean(axis=2)
        gain = shares[j] - np.delete(shares, j, axis=0).mean(axis=0)
        low, high = np.quantile(gain, [0.025, 0.975])
        chance = np.delete(share[:, j], j)
        scores.append(OutputScore(float(share[j, j]), tuple(chance.tolist()), float(low), float(high)))
    return scores


def _means(sets: Sequence[Float[np.ndarray, "n_tokens d"]]) -> Float[np.ndarray, "n_features d"]:
    means = np.stack([of_feature.mean(axis=0) for of_feature in sets])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def _shares(similarity: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """[i, j]: share of the other sets that explanation i is less like than set j."""
    return (similarity[:, None, :] < similarity[:, :, None]).sum(axis=2) / (len(similarity) - 1)


def score_outputs(db: Db, sae_id: str, measured: MeasuredIn, config: InterveneConfig) -> None:
    """Record the output score of every explained feature that was measured so; all anew, as each depends on all."""
    known = explained_outputs(db, sae_id, measured.settings_hash)
    readable = {j: (text, words_of(tokens)) for j, (text, tokens) in known.items()}
    chosen = {j: pair for j, pair in readable.items() if len(pair[1]) >= MIN_WORDS}
    why = _why_none(len(chosen))
    rows = {j: _undefined(why or "too few of its tokens can be read as words") for j in known}
    if why is None:
        rows |= _rows(chosen, load_embed(), config)
    for j, row in rows.items():
        write_effects(db, FeatureId(sae_id, j), measured, [row])


def _why_none(n: int) -> str | None:
    if not is_installed():
        return "vectors of texts need the extra `embedding`; pip install 'safesail[embedding]'"
    return f"{n} explained features; {MIN_FEATURES} are needed" if n < MIN_FEATURES else None


def _undefined(reason: str) -> EffectRow:
    return EffectRow("steer", "neutral", "output_score", 1, 0, reason=reason)


def _rows(
    chosen: Mapping[int, tuple[str, list[str]]], embed: Embed, config: InterveneConfig
) -> dict[int, EffectRow]:
    words = sorted({word for _, of_set in chosen.values() for word in of_set})
    vectors = dict(zip(words, embed(words), strict=True))
    scores = output_scores(
        embed([text for text, _ in chosen.values()]).astype(float),
        [np.stack([vectors[word] for word in of_set]).astype(float) for _, of_set in chosen.values()],
        draws=config.draws,
        seed=config.seed,
    )
    p = np.array([(1 + sum(c >= s.value for c in s.chance)) / (1 + len(s.chance)) for s in scores])
    q = benjamini_hochberg(p)
    return {
        j: EffectRow(
            "steer", "neutral", "output_score", 1, len(of_set), value=score.value,
            null_value=float(np.mean(score.chance)), gain_low=score.low, gain_high=score.high,
            null_values=score.chance, tokens=tuple(of_set), p=float(p[i]), q=float(q[i]),
        )
        for i, ((j, (_, of_set)), score) in enumerate(zip(chosen.items(), scores, strict=True))
    }  # fmt: skip

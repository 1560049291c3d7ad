"""All effects of one feature: conditions, texts and measures, each with its nulls."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from safesail.domain.undefined import Undefined
from safesail.intervene.config import Condition, InterveneConfig, Texts
from safesail.intervene.measure import CleanPass, Reading, Readout, Spots, read_directions
from safesail.intervene.strength import Strength, find_strength, measure_cost
from safesail.metrics.effects import median_interval
from safesail.sae.edit import Change, ablate, feature_values, scale
from safesail.sae.protocol import SAE
from safesail.store.effects import EffectRow, Span
from safesail.subject.protocol import Subject

GROUPS: tuple[tuple[Condition, Texts], ...] = (
    ("ablate", "firing"), ("double", "firing"), ("steer", "firing"), ("steer", "neutral"),
)  # fmt: skip
"""Ablated or doubled where it does not fire, a feature changes nothing."""

MIN_P = 1e-5
"""Mean probability, steered, of a token that counts as made likelier: below it log-odds are noise."""


@dataclass(frozen=True)
class Neutral:
    """Neutral text, run once for all features of an SAE."""

    clean: CleanPass
    spots: Spots

    @classmethod
    def run(cls, subject: Subject, hook: str, spans: Sequence[Span], config: InterveneConfig) -> "Neutral":
        """One pass over the spans."""
        clean = clean_pass(subject, hook, spans, config)
        return cls(clean, spots_where(torch.ones(clean.x.shape[:2], dtype=torch.bool), spans, config))


@dataclass(frozen=True)
class FeatureTask:
    """A feature, and what its effects are measured on."""

    feature: int
    maximum: float
    spans: Sequence[Span]
    """Held-out text in which it fires, strongest at the first token that is edited."""

    sets: Mapping[str, Sequence[int]]
    """Token sets by name: ids."""

    directions: Float[Tensor, "n_directions d_in"]
    """Its own, then its null features', then random ones."""

    n_null: int
    """How many of them are null features'."""


def clean_pass(subject: Subject, hook: str, spans: Sequence[Span], config: InterveneConfig) -> CleanPass:
    """One pass over spans of `context + edited + 1` tokens; the last one is only what follows."""
    return CleanPass.run(subject, hook, [span.token_ids[:-1] for span in spans], config.context)


def spots_where(fires: Tensor, spans: Sequence[Span], config: InterveneConfig) -> Spots:
    """Every token from the first edited one on; `fires` [row, edited] says which are edited."""
    row, position = np.indices(fires.shape).reshape(2, -1)
    following = np.array([span.token_ids[config.context + 1 :] for span in spans], dtype=np.int64)
    return Spots(row, position, fires.cpu().numpy()[row, position], following[row, position])


@dataclass(frozen=True)
class _Prepared:
    """What the conditions of one feature share."""

    firing: CleanPass
    f: Float[Tensor, "n_rows edited"]
    """The feature's activations on the firing text."""

    spots: Spots
    neutral: Neutral
    strength: Strength | Undefined


def measure_feature(
    subject: Subject, sae: SAE, task: FeatureTask, neutral: Neutral, config: InterveneConfig
) -> list[EffectRow]:
    """Its effects; one that is undefined says why."""
    n = len(task.spans)
    if n < config.min_texts:
        why = f"fires in {n} held-out documents with room round it; {config.min_texts} are needed"
        return [_undefined(group, name, why) for group in GROUPS for name in _names(task, group)]
    firing = clean_pass(subject, sae.info.hook, task.spans, config)
    f = feature_values(sae.encode(firing.x.flatten(0, 1)), [task.feature]).to(firing.x.device)
    f = f.reshape(firing.x.shape[:2])
    strength = _strength(neutral, task.directions[0] * task.maximum, config)
    prepared = _Prepared(firing, f, spots_where(f > 0, task.spans, config), neutral, strength)
    return [row for group in GROUPS for row in _group_effects(subject, group, prepared, task, config)]


def _group_effects(
    subject: Subject,
    group: tuple[Condition, Texts],
    prepared: _Prepared,
    task: FeatureTask,
    config: InterveneConfig,
) -> list[EffectRow]:
    """Effects of one condition on one kind of text."""
    steered, neutral = group[0] == "steer", group[1] == "neutral"
    strength = prepared.strength
    if steered and isinstance(strength, Undefined):
        return [_undefined(group, name, strength.reason) for name in _names(task, group)]
    factor = strength.factor if isinstance(strength, Strength) else 0.0
    clean = prepared.neutral.clean if neutral else prepared.firing
    spots = prepared.neutral.spots if neutral else prepared.spots
    coefficients = _coefficients(group, prepared.f, clean, factor * task.maximum)
    readout = Readout(spots, task.sets, shifts=neutral)
    readings = read_directions(clean, coefficients, task.directions, readout, batch_rows=config.batch_rows)
    effects = list(_effects(subject, group, list(readings), task, config))
    if steered and isinstance(strength, Strength):
        return [replace(row, strength=strength.factor, cost=strength.cost) for row in effects]
    return effects


def _strength(neutral: Neutral, full: Tensor, config: InterveneConfig) -> Strength | Undefined:
    if config.strength is None:
        return find_strength(neutral.clean, neutral.spots, full, config.max_cost)
    (cost,) = measure_cost(neutral.clean, neutral.spots, full, np.array([config.strength]))
    return Strength(config.strength, float(cost))


_CHANGES: Mapping[Condition, Change] = {"ablate": ablate, "double": scale(2.0)}


def _coefficients(
    group: tuple[Condition, Texts], f: Float[Tensor, "n_rows edited"], clean: CleanPass, amount: float
) -> Float[Tensor, "n_rows edited"]:
    """What is added to the feature at every token."""
    condition, texts = group
    if condition == "steer":
        return (
            torch.full(clean.x.shape[:2], amount, device=f.device) if texts == "neutral" else amount * (f > 0)
        )
    return _CHANGES[condition](f.flatten()).reshape(f.shape) - f


def _names(task: FeatureTask, group: tuple[Condition, Texts]) -> list[str]:
    """Measures of a group."""
    after = ["ce_other"] if group[1] == "firing" else ["risen"]
    return [*(f"log_odds_{name}" for name in task.sets), "kl", "ce_firing", *after]


def _expected(condition: Condition, measure: str) -> int:
    """Which way a feature that does something moves a measure."""
    return -1 if condition == "ablate" and measure.startswith("log_odds") else 1


def _undefined(group: tuple[Condition, Texts], measure: str, reason: str) -> EffectRow:
    return EffectRow(*group, measure, _expected(group[0], measure), 0, reason=reason)


def _effects(
    subject: Subject,
    group: tuple[Condition, Texts],
    readings: Sequence[Reading],
    task: FeatureTask,
    config: InterveneConfig,
) -> Iterator[EffectRow]:
    for name in _names(task, group):
        if name == "risen":
            yield _risen(subject, group, readings[: 1 + task.n_null], config)
            continue
        values = np.stack([_values(reading, name) for reading in readings])
        row = summarise(group, name, values, task.n_null, config)
        of = task.sets.get(name.removeprefix("log_odds_"))
        yield row if of is None else replace(row, tokens=subject.token_strings(of))


def _values(reading: Reading, measure: str) -> Float[np.ndarray, " n_texts"]:
    if measure.startswith("log_odds_"):
        return reading.log_odds[measure.removeprefix("log_odds_")]
    figures = {"kl": reading.kl, "ce_firing": reading.ce_firing, "ce_other": reading.ce_other}
    return figures[measure]


def summarise(
    group: tuple[Condition, Texts],
    measure: str,
    values: Float[np.ndarray, "n_directions n_texts"],
    n_null: int,
    config: InterveneConfig,
) -> EffectRow:
    """One measure over texts, beside its nulls.

    Args:
        group: Condition and texts.
        measure: Its name.
        values: The feature's own first, then its null features', then those of random directions; NaN: no such token.
        n_null: Number of null features.
        config: Settings.
    """
    expected = _expected(group[0], measure)
    values = values[:, ~np.isnan(values).any(axis=0)]
    n_texts = values.shape[1]
    if n_texts < config.min_texts:
        return replace(_undefined(group, measure, f"{n_texts} texts have such a token"), n_texts=n_texts)
    medians = np.median(values, axis=1)
    nulls = medians[1 : 1 + n_null]
    gain = expected * (values[0] - np.median(values[1 : 1 + n_null], axis=0))
    low, high = median_interval(gain, draws=config.draws, seed=config.seed)
    return EffectRow(
        *group,
        measure,
        expected,
        n_texts,
        value=float(medians[0]),
        null_value=float(np.median(nulls)),
        random_value=float(np.median(medians[1 + n_null :])),
        gain_low=low,
        gain_high=high,
        null_values=tuple(nulls.tolist()),
    )


def _risen(
    subject: Subject, group: tuple[Condition, Texts], readings: Sequence[Reading], config: InterveneConfig
) -> EffectRow:
    """The tokens that steering makes likelier by more than steering along other features' directions does."""
    shifts = [reading.shift for reading in readings if reading.shift is not None]
    p_mean = readings[0].p_mean
    assert len(shifts) == len(readings) and p_mean is not None
    null = np.median(shifts[1:], axis=0)
    rise = np.where(p_mean >= MIN_P, shifts[0] - null, -np.inf)
    top = np.argsort(-rise, kind="stable")[: config.set_size]
    top = top[rise[top] > 0]
    if top.size == 0:
        return _undefined(group, "risen", "no token becomes likelier")
    return EffectRow(
        *group,
        "risen",
        1,
        len(readings[0].kl),
        value=float(shifts[0][top].mean()),
        null_value=float(null[top].mean()),
        tokens=subject.token_strings([int(token) for token in top]),
    )

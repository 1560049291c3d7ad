"""All that the page of one feature shows."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from safesail.autointerp.replay import Replays, ScoreKey
from safesail.autointerp.units import Simulation
from safesail.catalog.show import ShownConcept, ShownExplanation, ShownFeature, ShownScore, show_feature
from safesail.catalog.sources import neuronpedia_saes
from safesail.domain.ids import FeatureId
from safesail.domain.pieces import join_pieces
from safesail.errors import NotFoundError
from safesail.prompting.marking import crop
from safesail.store.feature_page import (
    MANY_ACTIVATIONS,
    N_LEVELS,
    Extra,
    Statistics,
    active_together,
    control_windows,
    explanation_ids,
    extra_rows,
    fill_norms,
    headline_rows,
    levelled_windows,
    named_features,
    near_directions,
    score_origins,
    shown_explanation,
    statistics,
    value_histogram,
)
from safesail.store.shelf import searched_numbers, shelf_rows
from safesail.store.sql import Row
from safesail.view.desk import Desk, ShownSae

PER_LEVEL = 2
"""Windows of a level on either side: shown to the explainer, or held out."""

N_CONTROLS = 3
"""Of either kind."""

BEFORE, AFTER = 40, 16
"""Tokens round the strongest one; the whole window stands in the JSON."""

N_NEAR = 8
N_BINS = 32
STEPS = 10
"""Intensities that a page tells apart."""

QUICK_TEXTS = 50_000
"""Above so many explanations, near ones are sought when asked for only."""


@dataclass(frozen=True)
class ShownToken:
    """A token of a window."""

    lead: str
    """Blanks before it, which no colour covers."""

    text: str
    step: int
    """Intensity, 0 to `STEPS`."""

    value: float
    peak: bool = False


@dataclass(frozen=True)
class ShownWindow:
    """Part of a window on a page."""

    split: str
    """`train`: the explainer may have seen it; `test`: held out from it."""

    document_id: str
    start: int
    tokens: tuple[ShownToken, ...]
    maximum: float
    cut_before: bool
    cut_after: bool


@dataclass(frozen=True)
class Level:
    """Windows of one activation level."""

    number: int
    low: float
    high: float
    n: int
    """Windows of this level that the catalog has."""

    windows: tuple[ShownWindow, ...]


@dataclass(frozen=True)
class Near:
    """Another feature that is like this one."""

    sae_id: str
    index: int
    explanation: str | None
    score: float | None
    top_tokens: tuple[str, ...]
    figure: float | None
    """Cosine; None: it has a rank only."""

    note: str = ""


@dataclass(frozen=True)
class NearBy:
    """Neighbours in one respect, or why there are none."""

    title: str
    what: str
    near: tuple[Near, ...]
    missing: str | None = None
    ask: bool = False
    """Whether they are there, and take long enough to be asked for."""


@dataclass(frozen=True)
class SimulatedUnit:
    """A segment or token, with what is true and what was simulated of it."""

    text: str
    true: float
    predicted: float
    true_step: int
    predicted_step: int


@dataclass(frozen=True)
class SimulatedWindow:
    """A held-out window beside its simulation."""

    units: tuple[SimulatedUnit, ...]
    error: float
    """Sum of the differences of both, as shares of their largest."""

    active: bool


@dataclass(frozen=True)
class ShownSimulation:
    """What the simulator said of the windows behind the first score, or why that is not here."""

    score: ShownScore | None
    windows: tuple[SimulatedWindow, ...]
    n_windows: int
    missing: str | None


@dataclass(frozen=True)
class Origin:
    """Where a number or a text comes from."""

    what: str
    by: str
    run_id: str | None
    prompt_hash: str | None
    settings_hash: str | None
    tokens: int | None


@dataclass(frozen=True)
class FeaturePage:
    """A feature with everything its page shows."""

    shown: ShownFeature
    sae: ShownSae
    statistics: Statistics
    headline: ShownScore | None
    explanation: ShownExplanation | None
    """The one that stands above."""

    others: tuple[ShownExplanation, ...]
    redacted: bool
    levels: tuple[Level, ...]
    top: float | None
    """Activation of the strongest colour."""

    controls: tuple[tuple[str, tuple[ShownWindow, ...]], ...]
    histogram: tuple[int, ...]
    """Empty: the catalog does not hold enough."""

    nearby: tuple[NearBy, ...]
    simulation: ShownSimulation
    concepts: tuple[ShownConcept, ...]
    extras: dict[str, Extra]
    origins: tuple[Origin, ...]
    neuronpedia: str | None
    """Address of its page there."""

    previous: int | None
    following: int | None
    as_json: str


def feature_page(desk: Desk, feature: FeatureId, *, near: bool = False, simulated: bool = False) -> FeaturePage:
    """Read the page of a feature.

    Args:
        desk: The catalog.
        feature: The feature.
        near: Neighbours that take long are sought too.
        simulated: The simulation is read too, which takes a second.

    Raises:
        NotFoundError: the catalog does not have it.
    """
    shown = show_feature(desk.db, feature)
    sae = next(s for s in desk.saes if s.sae_id == feature.sae_id)
    measured = statistics(desk.db, feature)
    redacted = any(e.masked for e in shown.explanations) and desk.source.is_release
    top = measured.q999 or measured.maximum
    scored = headline_rows(desk.db, feature)
    explanation, others = _first(desk, feature, shown.explanations)
    levels = _levels(desk, feature, top)
    return FeaturePage(
        shown=shown,
        sae=sae,
        statistics=measured,
        headline=ShownScore(*scored[0][1:]) if scored else None,
        explanation=explanation,
        others=others,
        redacted=redacted,
        levels=levels,
        top=top,
        controls=_controls(desk, feature),
        histogram=_histogram(desk, feature, measured),
        nearby=tuple(_nearby(desk, feature, explanation, asked=near)),
        simulation=_simulation(desk, feature, scored, simulated=simulated),
        concepts=shown.concepts,
        extras={table: extra_rows(desk.db, table, feature) for table in desk.extras},
        origins=_origins(desk, feature, shown),
        neuronpedia=_neuronpedia(feature),
        previous=feature.index - 1 if feature.index else None,
        following=feature.index + 1 if feature.index + 1 < (sae.d_sae or 10**9) else None,
        as_json=json.dumps(asdict(shown), ensure_ascii=True, allow_nan=False, separators=(",", ":")),
    )


def _first(
    desk: Desk, feature: FeatureId, all_of: Sequence[ShownExplanation]
) -> tuple[ShownExplanation | None, tuple[ShownExplanation, ...]]:
    """The explanation that the catalog shows, and the others."""
    ids = [row[0] for row in explanation_ids(desk.db, feature)]
    shown = shown_explanation(desk.db, feature)
    if shown not in ids:
        return None, tuple(all_of)
    at = ids.index(shown)
    return all_of[at], (*all_of[:at], *all_of[at + 1 :])


def _levels(desk: Desk, feature: FeatureId, top: float | None) -> tuple[Level, ...]:
    if not top:
        return ()
    by_level: dict[int, list[ShownWindow]] = {}
    sizes: dict[int, int] = {}
    for level, n, split, document_id, start, tokens, positions, values in levelled_windows(
        desk.db, feature, top, PER_LEVEL
    ):
        activations = [0.0] * len(tokens)
        for position, value in zip(positions, values, strict=True):
            activations[position] = float(value)
        by_level.setdefault(level, []).append(_window(split, document_id, start, tokens, activations, top))
        sizes[level] = n
    return tuple(
        Level(level, (level - 1) * top / N_LEVELS, level * top / N_LEVELS, sizes[level], tuple(windows))
        for level, windows in by_level.items()
    )


def _window(
    split: str, document_id: str, start: int, tokens: Sequence[str], activations: Sequence[float], top: float
) -> ShownWindow:
    texts, values = join_pieces(tokens, activations)
    first, stop = crop(values, BEFORE, AFTER) if texts else (0, 0)
    peak = max(range(len(values)), key=lambda i: values[i], default=0)
    shown = tuple(
        ShownToken(*_apart(texts[i]), step_of(values[i], top), values[i], peak=i == peak and values[i] > 0)
        for i in range(first, stop)
    )
    return ShownWindow(split, document_id, start, shown, max(values, default=0.0), first > 0, stop < len(texts))


def _apart(token: str) -> tuple[str, str]:
    """Blanks before a token, and the rest of it; a token of blanks alone stays whole."""
    rest = token.lstrip(" ")
    return (token[: len(token) - len(rest)], rest) if rest else ("", token)


def step_of(value: float, top: float) -> int:
    """Intensity of a value: 0 for none, then 1 to `STEPS`, any activity at all at least 1."""
    if value <= 0 or top <= 0:
        return 0
    return max(1, min(STEPS, round(value / top * STEPS)))


def _controls(desk: Desk, feature: FeatureId) -> tuple[tuple[str, tuple[ShownWindow, ...]], ...]:
    by_kind: dict[str, list[ShownWindow]] = {}
    for kind, split, document_id, start, tokens in control_windows(desk.db, feature, N_CONTROLS):
        silent = [0.0] * len(tokens)
        by_kind.setdefault(kind, []).append(_window(split, document_id, start, tokens, silent, 1.0))
    return tuple((kind, tuple(windows)) for kind, windows in by_kind.items())


def _histogram(desk: Desk, feature: FeatureId, measured: Statistics) -> tuple[int, ...]:
    if desk.source.is_release or not measured.maximum or measured.n_active is None:
        return ()
    return tuple(value_histogram(desk.db, feature, measured.maximum, N_BINS))


def _nearby(
    desk: Desk, feature: FeatureId, explanation: ShownExplanation | None, *, asked: bool
) -> list[NearBy]:
    return [
        _by_direction(desk, feature),
        _by_activity(desk, feature, asked=asked),
        _by_explanation(desk, feature, explanation, asked=asked),
    ]


def _named(desk: Desk, sae_id: str, found: Sequence[tuple[int, float, str]]) -> tuple[Near, ...]:
    names = named_features(desk.db, sae_id, [index for index, _, _ in found])
    return tuple(
        Near(sae_id, index, *names.get(index, (None, None, ())), figure=cosine, note=note)
        for index, cosine, note in found
    )


def _by_direction(desk: Desk, feature: FeatureId) -> NearBy:
    found = [(int(i), float(c), "") for i, c in near_directions(desk.db, feature, N_NEAR)]
    missing = None if found else "no candidate was found whose decoder direction is within a cosine of 0.7"
    return NearBy("By decoder direction", "cosine", _named(desk, feature.sae_id, found), missing)


def _by_activity(desk: Desk, feature: FeatureId, *, asked: bool) -> NearBy:
    title, what = "By activity", "cosine of activations over the harvested tokens"
    if desk.n_activations == 0:
        return NearBy(title, what, (), "needs a harvest: a release carries a few windows per feature only")
    if desk.n_activations > MANY_ACTIVATIONS and not asked:
        return NearBy(title, what, (), f"sought among {desk.n_activations:,} activations when asked for", ask=True)
    desk.once("norms", lambda: fill_norms(desk.db))
    found = [
        (int(i), float(c), f"{n:,} tokens together") for i, c, n in active_together(desk.db, feature, N_NEAR)
    ]
    return NearBy(title, what, _named(desk, feature.sae_id, found), None if found else "it fires with no other")


def _by_explanation(
    desk: Desk, feature: FeatureId, explanation: ShownExplanation | None, *, asked: bool
) -> NearBy:
    title, what = "By explanation", f"found {desk.index.method}"
    if explanation is None or not explanation.text or not explanation.text.strip():
        return NearBy(title, what, (), "it has no explanation to compare")
    if desk.index.n_texts > QUICK_TEXTS and not asked:
        return NearBy(title, what, (), f"sought among {desk.index.n_texts:,} when asked for", ask=True)
    if not any(character.isalnum() for character in explanation.text):
        return NearBy(title, what, (), "its explanation has no words")
    numbers = searched_numbers(desk.db, desk.index.ranked(explanation.text, limit=N_NEAR + 1).numbers)
    rows = [row for row in shelf_rows(desk.db, numbers) if (row[0], row[2]) != (feature.sae_id, feature.index)]
    near = tuple(Near(row[0], row[2], row[3], row[5], (), None) for row in rows[:N_NEAR])
    return NearBy(title, what, near, None if near else "no other is like it")


def _simulation(desk: Desk, feature: FeatureId, rows: Sequence[Row], *, simulated: bool) -> ShownSimulation:
    """Of the score that the catalog shows, a row of `headline_rows`."""
    if not rows:
        return ShownSimulation(None, (), 0, "it was not scored; `safesail score` scores its explanation")
    score = ShownScore(*rows[0][1:])
    if desk.source.is_release:
        missing = "a release holds the score and not the simulator's answers; the store that made it has both"
        return ShownSimulation(score, (), 0, missing)
    if not simulated:
        return ShownSimulation(score, (), 0, None)
    origin = next(o for o in score_origins(desk.db, feature) if o[:3] == (rows[0][0], score.method, score.simulator))
    replays: Replays = desk.once("replays", lambda: Replays(desk.db))
    try:
        said = replays.simulation(ScoreKey(feature, str(origin[0]), score.simulator, origin[3], str(origin[5])))
    except NotFoundError as error:
        return ShownSimulation(score, (), 0, str(error))
    return ShownSimulation(score, _beside(said), len(said.windows), None)


N_SIMULATED = 24
"""Windows of a simulation on a page: active ones, then those that it is furthest off on."""


def _beside(said: Simulation) -> tuple[SimulatedWindow, ...]:
    top_true = max((value for w in said.windows for value in w.units.true), default=0.0) or 1.0
    top_said = max((value for w in said.windows for value in w.predicted), default=0.0) or 1.0
    windows: list[SimulatedWindow] = []
    for window in said.windows:
        units = tuple(
            SimulatedUnit(text, true, predicted, step_of(true, top_true), step_of(predicted, top_said))
            for text, true, predicted in zip(
                window.units.texts, window.units.true, window.predicted, strict=True
            )
        )
        error = sum(abs(u.true / top_true - u.predicted / top_said) for u in units)
        windows.append(SimulatedWindow(units, error, any(window.units.active)))
    return tuple(sorted(windows, key=lambda w: (not w.active, -w.error))[:N_SIMULATED])


def _origins(desk: Desk, feature: FeatureId, shown: ShownFeature) -> tuple[Origin, ...]:
    hashes = explanation_ids(desk.db, feature)
    explained = [
        Origin("explanation", f"{e.explainer} ({e.origin})", None, prompt_hash, None, None)
        for e, (_, prompt_hash) in zip(shown.explanations, hashes, strict=True)
    ]
    scored = [
        Origin(f"score, {method}", simulator, run_id, prompt_hash, settings_hash, tokens)
        for _, method, simulator, run_id, prompt_hash, settings_hash, tokens in score_origins(desk.db, feature)
    ]
    return (*explained, *scored)


def _neuronpedia(feature: FeatureId) -> str | None:
    """Its page there, where SAELens' directory names the SAE's, or the SAE bears the name of one of theirs."""
    name = feature.sae_id.removeprefix("neuronpedia:")
    if "/" not in name:  # as all of their names have, and those of the directory
        return None
    if name in neuronpedia_saes():
        return f"https://www.neuronpedia.org/{name}/{feature.index}"
    return next(
        (
            f"https://www.neuronpedia.org/{theirs}/{feature.index}"
            for theirs, saes in neuronpedia_saes().items()
            if any(f"{c.release}/{c.sae_id}" == feature.sae_id for c in saes)
        ),
        None,
    )

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
    Statistics,
    active_together,
    control_windows,
    explanation_ids,
    fill_norms,
    levelled_windows,
    named_features,
    near_directions,
    score_origins,
    statistics,
    value_histogram,
)
from safesail.store.sql import Row
from safesail.view.desk import Desk, ShownSae

PER_LEVEL = 2
"""Windows of a level on either side: shown to the explainer, or held out."""

N_CONTROLS = 3
"""Of either kind."""

BEFORE, AFTER = 40, 16
"""Tokens round the strongest one; the whole window stands in the JSON."""

EFFECTS = {
    "log_odds_followers": "what follows it in other texts",
    "log_odds_key_words": "its concept's words",
    "log_odds_lens": "the tokens of its logit lens",
}
"""Sets of tokens whose log-odds are measured."""

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
    effects: tuple[dict[str, Any], ...]
    """Changes of log-odds, as `ShownFeature.effects` has them."""

    risen: tuple[str, ...]
    """Tokens that steering makes likelier."""

    output: dict[str, Any] | None
    """How well its explanation picks these from other features'."""

    origins: tuple[Origin, ...]
    neuronpedia: str | None
    """Address of its page there."""

    previous: int | None
    following: int | None
    as_json: str


def feature_page(
    desk: Desk, feature: FeatureId, *, near: bool = False, simulated: bool = False
) -> FeaturePage:
    """Read the page of a feature.

    Args:
        desk: The catalog.
        feature: The feature.
        near: Neighbours that take long are sought too.
        simulated: The simulation is read too, which takes a second.

    Raises:
        NotFoundError: the catalog does not have it.
    """
    windowed = feature.sae_id in desk.windowed
    shown = show_feature(desk.db, feature, n_windows=5 if windowed else 0)
    sae = next(s for s in desk.saes if s.sae_id == feature.sae_id)
    measured = statistics(desk.db, feature)
    top = measured.q999 or measured.maximum
    stand = _standing(desk, feature, shown)
    first = None if stand.explanation is None else shown.explanations[stand.explanation]
    return FeaturePage(
        shown=shown,
        sae=sae,
        statistics=measured,
        headline=None if stand.score is None else stand.scores[stand.score],
        explanation=first,
        others=tuple(e for at, e in enumerate(shown.explanations) if at != stand.explanation),
        redacted=any(e.masked for e in shown.explanations) and desk.source.is_release,
        levels=_levels(desk, feature, top) if windowed and top else (),
        top=top,
        controls=_controls(desk, feature) if windowed and not desk.source.is_release else (),
        histogram=_histogram(desk, feature, measured) if windowed else (),
        nearby=tuple(_nearby(desk, feature, first, asked=near)),
        simulation=_simulation(desk, feature, stand, simulated=simulated),
        concepts=shown.concepts,
        effects=tuple(e for e in shown.effects if e["measure"] in EFFECTS),
        risen=next((tuple(e["tokens"] or ()) for e in shown.effects if e["measure"] == "risen"), ()),
        output=next((e for e in shown.effects if e["measure"] == "output_score"), None),
        origins=_origins(shown, stand),
        neuronpedia=_neuronpedia(desk, feature),
        previous=feature.index - 1 if feature.index else None,
        following=feature.index + 1 if feature.index + 1 < (sae.d_sae or 10**9) else None,
        as_json=json.dumps(asdict(shown), ensure_ascii=True, allow_nan=False, separators=(",", ":")),
    )


@dataclass(frozen=True)
class _Standing:
    """Which explanation and which score of a feature the catalog shows, by the rules of its views."""

    explanation: int | None
    """Where it stands in `ShownFeature.explanations`."""

    score: int | None
    """Where it stands in `scores`."""

    scores: Sequence[ShownScore]
    """All of the feature, newest first."""

    ids: Sequence[Row]
    """`explanation_ids`."""

    origins: Sequence[Row]
    """`score_origins`: of each of `scores`."""


def _standing(desk: Desk, feature: FeatureId, shown: ShownFeature) -> _Standing:
    """What the views `headline_scores` and `shown_explanations` say of one feature, without computing them for all."""
    if not shown.explanations:
        return _Standing(None, None, (), (), ())
    ids, origins = explanation_ids(desk.db, feature), score_origins(desk.db, feature)
    rank_of = {str(row[0]): at for at, row in enumerate(ids)}  # the newest first
    in_turn = [iter(explanation.scores) for explanation in shown.explanations]
    origins = [origin for origin in origins if str(origin[0]) in rank_of]
    scores = [next(in_turn[rank_of[str(origin[0])]]) for origin in origins]
    method = desk.methods.get(feature.sae_id)
    counted = [at for at, o in enumerate(origins) if (o[1], o[2], o[5]) == method]

    def by_explanation(at: int) -> tuple[bool, bool, int]:
        explanation = shown.explanations[at]
        return explanation.text is None, explanation.lang != "en", at

    def by_score(at: int) -> tuple[bool, bool, bool, int]:
        return scores[at].value is None, *by_explanation(rank_of[str(origins[at][0])])

    best = min(counted, key=by_score, default=None)
    # The views rank explanations by the score that is shown, which one of them has.
    scored = {} if best is None else {rank_of[str(origins[best][0])]: scores[best].value}
    readable = [at for at, e in enumerate(shown.explanations) if e.error is None]

    def by_readability(at: int) -> tuple[bool, bool, bool, int]:
        without_text, foreign, newest = by_explanation(at)
        return without_text, scored.get(at) is None, foreign, newest

    first = min(readable, key=by_readability, default=None)
    if best is not None and (first is None or rank_of[str(origins[best][0])] != first):
        best = None  # a score of another explanation than the one shown
    return _Standing(first, best, scores, ids, origins)


def _levels(desk: Desk, feature: FeatureId, top: float) -> tuple[Level, ...]:
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
    return ShownWindow(
        split, document_id, start, shown, max(values, default=0.0), first > 0, stop < len(texts)
    )


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


def _named(desk: Desk, sae_id: str, neighbours: Sequence[tuple[int, float, str]]) -> tuple[Near, ...]:
    names = named_features(desk.db, sae_id, [index for index, _, _ in neighbours]) if neighbours else {}
    return tuple(
        Near(sae_id, index, *names.get(index, (None, None, ())), figure=cosine, note=note)
        for index, cosine, note in neighbours
    )


def _by_direction(desk: Desk, feature: FeatureId) -> NearBy:
    near = near_directions(desk.db, feature, N_NEAR) if desk.has_directions else []
    neighbours = [(int(i), float(c), "") for i, c in near]
    missing = (
        None if neighbours else "no candidate was found whose decoder direction is within a cosine of 0.7"
    )
    return NearBy("By decoder direction", "cosine", _named(desk, feature.sae_id, neighbours), missing)


def _by_activity(desk: Desk, feature: FeatureId, *, asked: bool) -> NearBy:
    title, what = "By activity", "cosine of activations over the harvested tokens"
    if desk.n_activations == 0 or feature.sae_id not in desk.windowed:
        return NearBy(title, what, (), "needs a harvest; a release carries a few windows per feature only")
    if desk.n_activations > MANY_ACTIVATIONS and not asked:
        return NearBy(
            title, what, (), f"sought among {desk.n_activations:,} activations when asked for", ask=True
        )
    desk.once("norms", lambda: fill_norms(desk.db))
    neighbours = [
        (int(i), float(c), f"{n:,} tokens together") for i, c, n in active_together(desk.db, feature, N_NEAR)
    ]
    return NearBy(
        title,
        what,
        _named(desk, feature.sae_id, neighbours),
        None if neighbours else "it fires with no other",
    )


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
    hits = desk.index.search(explanation.text, limit=N_NEAR + 1).hits
    near = tuple(
        Near(hit.sae_id, hit.index, hit.explanation, hit.score, (), None)
        for hit in hits
        if (hit.sae_id, hit.index) != (feature.sae_id, feature.index)
    )[:N_NEAR]
    return NearBy(title, what, near, None if near else "no other is like it")


def _simulation(desk: Desk, feature: FeatureId, stand: _Standing, *, simulated: bool) -> ShownSimulation:
    """Of the score that the catalog shows."""
    if stand.score is None:
        return ShownSimulation(None, (), 0, "it was not scored; `safesail score` scores its explanation")
    score, origin = stand.scores[stand.score], stand.origins[stand.score]
    if desk.source.is_release:
        missing = "a release holds the score and not the simulator's answers; the store that made it has both"
        return ShownSimulation(score, (), 0, missing)
    if not simulated:
        return ShownSimulation(score, (), 0, None)
    replays: Replays = desk.once("replays", lambda: Replays(desk.db))
    try:
        said = replays.simulation(
            ScoreKey(feature, str(origin[0]), score.simulator, origin[3], str(origin[5]))
        )
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
    return tuple(sorted(windows, key=_rank)[:N_SIMULATED])


def _rank(window: SimulatedWindow) -> tuple[bool, float, tuple[str, ...]]:
    """Active ones first, then those mistaken most; by the text where that is the same."""
    return not window.active, -round(window.error, 6), tuple(unit.text for unit in window.units)


def _origins(shown: ShownFeature, stand: _Standing) -> tuple[Origin, ...]:
    explained = [
        Origin("explanation", f"{e.explainer} ({e.origin})", None, prompt_hash, None, None)
        for e, (_, prompt_hash) in zip(shown.explanations, stand.ids, strict=True)
    ]
    scored = [
        Origin(f"score, {method}", simulator, run_id, prompt_hash, settings_hash, tokens)
        for _, method, simulator, run_id, prompt_hash, settings_hash, tokens in stand.origins
    ]
    return (*explained, *scored)


def _neuronpedia(desk: Desk, feature: FeatureId) -> str | None:
    """Its page there, where SAELens' directory names the SAE's, or the SAE bears the name of one of theirs."""
    folder = desk.once(("neuronpedia", feature.sae_id), lambda: _neuronpedia_sae(feature.sae_id))
    return f"https://www.neuronpedia.org/{folder}/{feature.index}" if folder else None


def _neuronpedia_sae(sae_id: str) -> str | None:
    name = sae_id.removeprefix("neuronpedia:")
    if "/" not in name:  # as all of their names have, and those of the directory
        return None
    if name in neuronpedia_saes():
        return name
    return next(
        (
            theirs
            for theirs, saes in neuronpedia_saes().items()
            if any(f"{c.release}/{c.sae_id}" == sae_id for c in saes)
        ),
        None,
    )

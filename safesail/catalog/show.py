"""All that is known of one feature, for people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from safesail.domain.ids import FeatureId
from safesail.domain.pieces import join_pieces
from safesail.store.connection import Db
from safesail.store.effects import effect_rows, effect_shown, lens_row
from safesail.store.intruders import intruder_rows
from safesail.store.selection import LOOSE
from safesail.store.shown import (
    concept_rows,
    exemplar_rows,
    explanation_rows,
    feature_row,
    score_rows,
    tag_rows,
)

CONTEXT = 24
"""Tokens shown before and after the strongest one."""

LONG = 300
"""Characters of an explanation that are shown where it is not asked for whole."""


@dataclass(frozen=True)
class ShownScore:
    """A score of an explanation."""

    method: str
    simulator: str
    value: float | None
    low: float | None
    high: float | None
    chance: float | None
    auc: float | None
    balanced_accuracy: float | None
    n_windows: int | None
    reason: str | None
    """Why there is no value."""

    lookup: float | None
    """The same figure for a table token -> mean activation, without any explanation."""

    beyond_lookup: str | None
    """Whether the explanation knows more than that: `yes`, `no` or `not shown`."""


@dataclass(frozen=True)
class ShownIntruder:
    """How often the text that does not belong was found among the feature's texts: a score without explanation."""

    simulator: str
    value: float | None
    low: float | None
    high: float | None
    chance: float
    n_trials: int
    reason: str | None


@dataclass(frozen=True)
class ShownExplanation:
    """An explanation with its scores."""

    text: str | None
    """None where masked or failed."""

    masked: bool
    lang: str
    explainer: str
    origin: str
    confidence: float | None
    error: str | None
    message: str | None
    scores: tuple[ShownScore, ...]


@dataclass(frozen=True)
class ShownTag:
    """A tag, and who gave it."""

    tag: str
    source: str
    severity: int | None
    strength: float | None = None
    """Of a tag that stands for concepts of a selection: the feature's largest mean AUC for one of them."""


@dataclass(frozen=True)
class ShownConcept:
    """A concept whose pairs the feature tells apart."""

    concept_id: str
    frequency: float
    """Share of pairs in which the feature fires on the side with the concept only."""

    swapped: float
    n_pairs: int
    auc_pairs: float | None
    """AUC of its largest activation on a text, with the concept against without; None: not known."""

    auc_wide: float | None
    """The same, against texts of other domains."""

    @property
    def strength(self) -> float | None:
        """Mean of both AUCs, or the one that is known; at 0.5 the feature says nothing of the concept."""
        known = [auc for auc in (self.auc_pairs, self.auc_wide) if auc is not None]
        return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class ShownWindow:
    """A window with the feature's activation at each token."""

    document_id: str
    start: int
    split: str
    tokens: tuple[str, ...]
    activations: tuple[float, ...]


@dataclass(frozen=True)
class ShownFeature:
    """A feature with everything the catalog holds about it."""

    sae_id: str
    index: int
    model_id: str
    hook: str
    layer: int | None
    d_sae: int | None
    architecture: str | None
    n_tokens: int | None
    density: float | None
    mean: float | None
    maximum: float | None
    q999: float | None
    top_tokens: tuple[str, ...]
    tags: tuple[ShownTag, ...]
    explanations: tuple[ShownExplanation, ...]
    """Newest first."""

    concepts: tuple[ShownConcept, ...]
    windows: tuple[ShownWindow, ...]
    """Strongest first."""

    top_lens: tuple[str, ...]
    """Tokens that its direction makes likeliest, by the logit lens; empty where that is not stored."""

    bottom_lens: tuple[str, ...]
    effects: tuple[dict[str, Any], ...]
    """What ablating, doubling and steering it changes, by condition, texts and measure; empty: not measured."""

    effect: str | None
    """Whether it is shown to do something: `yes`, `no` or `not shown`; None: not measured."""
    intruders: tuple[ShownIntruder, ...] = ()


def show_feature(db: Db, feature: FeatureId, *, n_windows: int = 5) -> ShownFeature:
    """Read one feature out of an open catalog.

    Raises:
        NotFoundError: the catalog does not have it.
    """
    row = feature_row(db, feature)
    concepts = tuple(ShownConcept(*cells) for cells in concept_rows(db, feature))
    top_lens, bottom_lens = lens_row(db, feature)
    scores: dict[str, list[ShownScore]] = {}
    for explanation_id, *cells in score_rows(db, feature):
        scores.setdefault(str(explanation_id), []).append(ShownScore(*cells))
    return ShownFeature(
        feature.sae_id,
        feature.index,
        *row[:-1],
        top_tokens=tuple(row[-1] or ()),
        tags=tuple(
            _shown_tag(tag, source, severity, concepts) for tag, source, severity in tag_rows(db, feature)
        ),
        explanations=tuple(
            ShownExplanation(*cells, scores=tuple(scores.get(str(explanation_id), ())))
            for explanation_id, *cells in explanation_rows(db, feature)
        ),
        concepts=concepts,
        windows=read_windows(db, feature, n_windows),
        top_lens=top_lens,
        bottom_lens=bottom_lens,
        effects=tuple(effect_rows(db, feature)),
        effect=effect_shown(db, feature),
        intruders=tuple(ShownIntruder(*cells) for cells in intruder_rows(db, feature)),
    )


def read_windows(db: Db, feature: FeatureId, limit: int) -> tuple[ShownWindow, ...]:
    """The feature's strongest windows, strongest first, each character whole."""
    return tuple(_window(*cells) for cells in exemplar_rows(db, feature, limit)) if limit else ()


def _window(
    document_id: str,
    start: int,
    split: str,
    tokens: Sequence[str],
    positions: Sequence[int],
    values: Sequence[float],
) -> ShownWindow:
    activations = [0.0] * len(tokens)
    for position, value in zip(positions, values, strict=True):
        activations[position] = float(value)
    return ShownWindow(document_id, start, split, *join_pieces(tokens, activations))


def render_feature(shown: ShownFeature, *, marks: bool = False, full: bool = True) -> Text:
    """The feature as coloured text for a terminal; windows are highlighted in proportion to their maximum.

    Args:
        shown: The feature.
        marks: Active tokens stand as `«token»` too: where colours are lost.
        full: Explanations are whole, however long.
    """
    kind = f", {shown.architecture}" if shown.architecture else ""
    width = f", {shown.d_sae:,} features" if shown.d_sae else ""
    lines = [
        Text.assemble(
            (f"{shown.sae_id}#{shown.index}", "bold"), f"  {shown.model_id}, {shown.hook}{kind}{width}"
        ),
        Text(_statistics(shown)),
    ]
    if shown.top_tokens:
        lines.append(Text("top tokens: " + "  ".join(repr(token) for token in shown.top_tokens)))
    if shown.tags:
        lines.append(Text("tags: " + ", ".join(map(_tag, shown.tags))))
    lines += [Text(_concept(concept)) for concept in shown.concepts]
    lines += [Text(line) for line in _effects(shown)]
    lines += [Text(_intruder(of)) for of in shown.intruders]
    for explanation in shown.explanations:
        lines += _render_explanation(explanation, full=full)
    top = max((max(window.activations, default=0.0) for window in shown.windows), default=0.0)
    for window in shown.windows:
        lines.append(Text.assemble((f"\n{max(window.activations):.2f} ", "bold"), (f"[{window.split}] ", "dim"),
                                   highlight(window.tokens, window.activations, top, marks=marks)))  # fmt: skip
    return Text("\n").join(lines)


def highlight(
    tokens: Sequence[str], activations: Sequence[float], top: float, *, marks: bool = False
) -> Text:
    """Tokens round the strongest one, on yellow that is brighter the stronger they are.

    Args:
        tokens: Of a window.
        activations: One per token, >= 0.
        top: Activation of the brightest colour.
        marks: Active tokens stand as `«token»`, blanks round them outside.
    """
    strongest = max(range(len(tokens)), key=lambda i: activations[i], default=0)
    start, stop = max(0, strongest - CONTEXT), min(len(tokens), strongest + CONTEXT + 1)
    text = Text("…" if start else "")
    for token, activation in zip(tokens[start:stop], activations[start:stop], strict=True):
        visible = _visible(token)
        share = min(activation / top, 1.0) if top > 0 else 0.0
        if marks and share and (core := visible.strip()):
            before, _, after = visible.partition(core)
            visible = f"{before}«{core}»{after}"
        text.append(
            visible,
            style=f"black on rgb(255,{255 - int(115 * share)},{200 - int(200 * share)})" if share else "",
        )
    return text.append("…" if stop < len(tokens) else "")


def _visible(text: str) -> str:
    """On one line: line breaks and control characters of a stranger's text must not reach the terminal."""
    return "".join(c if c.isprintable() else "⏎" if c == "\n" else " " for c in text)


def _statistics(shown: ShownFeature) -> str:
    figures = {"density": shown.density, "mean": shown.mean, "maximum": shown.maximum, "q999": shown.q999}
    parts = [f"{name} {value:.4g}" for name, value in figures.items() if value is not None]
    if shown.n_tokens is not None:
        parts.append(f"over {shown.n_tokens:,} tokens")
    return ", ".join(parts) or "no statistics"


def _shown_tag(tag: str, source: str, severity: int | None, concepts: Sequence[ShownConcept]) -> ShownTag:
    own = [c.strength for c in concepts if tag in c.concept_id.split(".") and c.strength is not None]
    return ShownTag(tag, source, severity, max(own, default=None) if source == "concepts" else None)


def _tag(tag: ShownTag) -> str:
    about = [tag.source]
    if tag.severity is not None:
        about.append(f"severity {tag.severity}")
    if tag.strength is not None:
        about.append(f"AUC {tag.strength:.2f}")
    return f"{tag.tag} ({', '.join(about)})"


def _concept(concept: ShownConcept) -> str:
    own, other = f"{concept.frequency:.0%}", f"{concept.swapped:.0%}"
    line = f"concept: {concept.concept_id}, alone in {own} of {concept.n_pairs} pairs ({other} on the other side)"
    if concept.auc_pairs is not None:
        line += f", AUC {concept.auc_pairs:.2f} on the pairs"
    if concept.auc_wide is not None:
        line += f", {concept.auc_wide:.2f} against other domains"
    loose = concept.strength is not None and concept.strength < LOOSE
    return f"{line}: only loosely" if loose else line


_ARROWS = {"ablate": "ablated", "double": "doubled", "steer": "steered"}
_SETS = {
    "log_odds_followers": "what follows it", "log_odds_key_words": "its concept's words", "log_odds_lens": "its lens",
}  # fmt: skip


def _effects(shown: ShownFeature) -> list[str]:
    """Logit lens and effects, one line each."""
    lines: list[str] = []
    for name, tokens in (("likelier", shown.top_lens), ("less likely", shown.bottom_lens)):
        if tokens:
            lines.append(f"logit lens, {name}: " + "  ".join(map(repr, tokens)))
    if not shown.effects:
        return lines
    lines.append(f"shown to do something: {shown.effect or 'undefined'}")
    for e in shown.effects:
        if e["measure"] in _SETS:
            lines.append(
                f"  {_ARROWS[e['condition']]} on {e['texts']} text, log-odds of {_SETS[e['measure']]}: {_change(e)}"
            )
        elif e["measure"] == "risen" and e["tokens"]:
            lines.append("  steered, it makes likelier: " + "  ".join(map(repr, e["tokens"])))
        elif e["measure"] == "output_score" and e["value"] is not None:
            lines.append(
                f"  its explanation picks these tokens from other features' in {e['value']:.0%} of comparisons (chance"
                f" {e['null_value']:.0%}, p {e['p']:.3f})"
            )
    return lines


def _change(e: Mapping[str, Any]) -> str:
    if e["value"] is None:
        return f"undefined, {e['reason']}"
    at = (
        ""
        if e["strength"] is None
        else f", at {e['strength']:.1f} x its maximum, cost {e['cost']:.2f} nats per token"
    )
    q = "" if e["q"] is None else f", q {e['q']:.3f}"
    return f"{e['value']:+.2f} (other features {e['null_value']:+.2f}){q}{at}"


def _intruder(of: ShownIntruder) -> str:
    name = f"intruder detection by {of.simulator}"
    if of.value is None or of.low is None or of.high is None:
        return f"{name}: undefined, {of.reason}"
    return f"{name}: {of.value:.3f} [{of.low:.3f}, {of.high:.3f}] of {of.n_trials} trials, chance {of.chance:.3f}"


def _render_explanation(explanation: ShownExplanation, *, full: bool) -> list[Text]:
    if explanation.text is not None:
        text = _visible(explanation.text)
        cut = not full and len(text) > LONG
        body = Text(f"{text[:LONG]}… (--full shows {len(text):,} characters)" if cut else text)
    elif explanation.masked:
        body = Text("masked", style="dim")
    else:
        body = Text(f"failed: {explanation.error}: {explanation.message}", style="red")
    by = Text(f"  by {explanation.explainer}, {explanation.origin}", style="dim")
    scores = [Text(f"  {_score(score)}", style="dim") for score in explanation.scores]
    return [Text.assemble("\n", body), by, *scores]


def _score(score: ShownScore) -> str:
    name = f"score ({score.method})"
    if score.value is None:
        accuracy = (
            "" if score.balanced_accuracy is None else f"; balanced accuracy {score.balanced_accuracy:.3f}"
        )
        return f"{name}: undefined, {score.reason}{accuracy}"
    has_interval = score.low is not None and score.high is not None
    interval = f" [{score.low:.3f}, {score.high:.3f}]" if has_interval else ""
    chance = "" if score.chance is None else f", chance {score.chance:.3f}"
    lookup = (
        ""
        if score.lookup is None
        else f", look-up {score.lookup:.3f}; knows more than a look-up: {score.beyond_lookup}"
    )
    return f"{name}: {score.value:.3f}{interval}{chance}{lookup}"

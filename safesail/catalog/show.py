"""All that is known of one feature, for people."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from safesail.domain.ids import FeatureId
from safesail.store.connection import Db
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


@dataclass(frozen=True)
class ShownConcept:
    """A concept whose pairs the feature tells apart."""

    concept_id: str
    frequency: float
    """Share of pairs in which the feature fires on the side with the concept only."""

    swapped: float
    n_pairs: int


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


def show_feature(db: Db, feature: FeatureId, *, n_windows: int = 5) -> ShownFeature:
    """Read one feature out of an open catalog.

    Raises:
        NotFoundError: the catalog does not have it.
    """
    row = feature_row(db, feature)
    scores: dict[str, list[ShownScore]] = {}
    for explanation_id, *cells in score_rows(db, feature):
        scores.setdefault(str(explanation_id), []).append(ShownScore(*cells))
    return ShownFeature(
        feature.sae_id,
        feature.index,
        *row[:-1],
        top_tokens=tuple(row[-1] or ()),
        tags=tuple(ShownTag(*cells) for cells in tag_rows(db, feature)),
        explanations=tuple(
            ShownExplanation(*cells, scores=tuple(scores.get(str(explanation_id), ())))
            for explanation_id, *cells in explanation_rows(db, feature)
        ),
        concepts=tuple(ShownConcept(*cells) for cells in concept_rows(db, feature)),
        windows=tuple(
            ShownWindow(document_id, start, split, tuple(tokens), _dense(len(tokens), positions, values))
            for document_id, start, split, tokens, positions, values in exemplar_rows(db, feature, n_windows)
        ),
    )


def render_feature(shown: ShownFeature) -> Text:
    """The feature as coloured text for a terminal; windows are highlighted in proportion to their maximum."""
    lines = [
        Text.assemble(
            (f"{shown.sae_id}#{shown.index}", "bold"), f"  {shown.model_id}, {shown.hook}", _width(shown)
        ),
        Text(_statistics(shown)),
    ]
    if shown.top_tokens:
        lines.append(Text("top tokens: " + "  ".join(repr(token) for token in shown.top_tokens)))
    if shown.tags:
        lines.append(Text("tags: " + ", ".join(_tag(tag) for tag in shown.tags)))
    lines += [Text(_concept(concept)) for concept in shown.concepts]
    for explanation in shown.explanations:
        lines += _render_explanation(explanation)
    top = max((max(window.activations, default=0.0) for window in shown.windows), default=0.0)
    for window in shown.windows:
        lines.append(Text.assemble((f"\n{max(window.activations):.2f} ", "bold"), (f"[{window.split}] ", "dim"),
                                   highlight(window.tokens, window.activations, top)))  # fmt: skip
    return Text("\n").join(lines)


def highlight(tokens: Sequence[str], activations: Sequence[float], top: float) -> Text:
    """Tokens round the strongest one, on yellow that is brighter the stronger they are.

    Args:
        tokens: Of a window.
        activations: One a token, >= 0.
        top: Activation of the brightest colour.
    """
    strongest = max(range(len(tokens)), key=lambda i: activations[i], default=0)
    start, stop = max(0, strongest - CONTEXT), min(len(tokens), strongest + CONTEXT + 1)
    text = Text("…" if start else "")
    for token, activation in zip(tokens[start:stop], activations[start:stop], strict=True):
        # Line breaks and control characters of a stranger's text must not reach the terminal.
        visible = "".join(c if c.isprintable() else "⏎" if c == "\n" else " " for c in token)
        share = min(activation / top, 1.0) if top > 0 else 0.0
        text.append(
            visible,
            style=f"black on rgb(255,{255 - int(115 * share)},{200 - int(200 * share)})" if share else "",
        )
    return text.append("…" if stop < len(tokens) else "")


def _dense(n: int, positions: Sequence[int], values: Sequence[float]) -> tuple[float, ...]:
    activations = [0.0] * n
    for position, value in zip(positions, values, strict=True):
        activations[position] = float(value)
    return tuple(activations)


def _width(shown: ShownFeature) -> str:
    kind = f", {shown.architecture}" if shown.architecture else ""
    return kind + (f", {shown.d_sae:,} features" if shown.d_sae else "")


def _statistics(shown: ShownFeature) -> str:
    figures = {"density": shown.density, "mean": shown.mean, "maximum": shown.maximum, "q999": shown.q999}
    parts = [f"{name} {value:.4g}" for name, value in figures.items() if value is not None]
    if shown.n_tokens is not None:
        parts.append(f"over {shown.n_tokens:,} tokens")
    return ", ".join(parts) or "no statistics"


def _tag(tag: ShownTag) -> str:
    return f"{tag.tag} ({tag.source}{'' if tag.severity is None else f', severity {tag.severity}'})"


def _concept(concept: ShownConcept) -> str:
    own, other = f"{concept.frequency:.0%}", f"{concept.swapped:.0%}"
    return f"concept: {concept.concept_id}, alone in {own} of {concept.n_pairs} pairs ({other} on the other side)"


def _render_explanation(explanation: ShownExplanation) -> list[Text]:
    if explanation.text is not None:
        body = Text("".join(c if c.isprintable() else " " for c in explanation.text))
    elif explanation.masked:
        body = Text("masked", style="dim")
    else:
        body = Text(f"failed: {explanation.error}: {explanation.message}", style="red")
    lines = [
        Text.assemble("\n", body),
        Text(f"  by {explanation.explainer}, {explanation.origin}", style="dim"),
    ]
    return lines + [Text(f"  {_score(score)}", style="dim") for score in explanation.scores]


def _score(score: ShownScore) -> str:
    name = f"score ({score.method})"
    if score.value is None:
        accuracy = (
            f"; balanced accuracy {score.balanced_accuracy:.3f}"
            if score.balanced_accuracy is not None
            else ""
        )
        return f"{name}: undefined, {score.reason}{accuracy}"
    interval = (
        f" [{score.low:.3f}, {score.high:.3f}]" if score.low is not None and score.high is not None else ""
    )
    chance = f", chance {score.chance:.3f}" if score.chance is not None else ""
    return f"{name}: {score.value:.3f}{interval}{chance}"

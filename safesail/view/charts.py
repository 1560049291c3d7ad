"""Plots as SVG, without a style attribute (a page's policy forbids them) and with a text that says the same. Pure."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from safesail.view.text import figure, significant, visible

Placed = Callable[[float], float]
"""Where on the page a value stands."""

LOW, HIGH = -0.2, 1.0
"""Ends of the one axis that scores stand on."""

SERIES = 8
"""Colours that series have, in the stylesheet; then they begin again."""


@dataclass(frozen=True)
class ScoreMarks:
    """What stands on the axis of a score; None is left out."""

    value: float | None
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    lookup: float | None = None


def _x(value: float, width: float, margin: float) -> float:
    share = (min(max(value, LOW), HIGH) - LOW) / (HIGH - LOW)
    return round(margin + share * (width - 2 * margin), 1)


def score_axis(marks: ScoreMarks, *, small: bool = False) -> Markup:
    """A score as a point with its interval, between a tick for chance and one for the token table.

    Args:
        marks: What is known.
        small: For a row of a table: no labels.
    """
    width, height, margin = (148, 18, 7) if small else (560, 64, 18)
    y = height / 2 if small else 26
    reach = 5 if small else 11
    parts = [_line(margin, y, width - margin, y, "axis")]
    for at in (0.0, 0.5, 1.0) if small else (-0.2, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        x = _x(at, width, margin)
        parts.append(_line(x, y - 2, x, y + 2, "axis zero" if at == 0 else "axis"))
        if not small:
            parts.append(_text(x, y + 30, figure(at, 1), "tick"))
    if marks.chance is not None:
        x = _x(marks.chance, width, margin)
        parts.append(_line(x, y - reach, x, y + reach, "chance"))
    if marks.lookup is not None:
        x = _x(marks.lookup, width, margin)
        r = 3.5 if small else 6
        parts.append(
            f'<path class="lookup" d="M{x} {y - reach - r / 2}l{r} {-r}h{-2 * r}z M{x} {y - reach}v{2 * reach}"/>'
        )
    if marks.low is not None and marks.high is not None:
        parts.append(_line(_x(marks.low, width, margin), y, _x(marks.high, width, margin), y, "interval"))
    if marks.value is not None:
        parts.append(
            f'<circle class="point" cx="{_x(marks.value, width, margin)}" cy="{y}" r="{3.5 if small else 6}"/>'
        )
    return _svg(width, height, "score small" if small else "score", score_words(marks), parts)


def score_words(marks: ScoreMarks) -> str:
    """The same in words."""
    if marks.value is None:
        return "no score"
    words = f"score {figure(marks.value)}"
    if marks.low is not None and marks.high is not None:
        words += f", interval {figure(marks.low)} to {figure(marks.high)}"
    if marks.chance is not None:
        words += f"; chance {figure(marks.chance)}"
    if marks.lookup is not None:
        words += f"; token table {figure(marks.lookup)}"
    return words


def histogram(bins: Sequence[int], top: float, marks: Sequence[tuple[str, float | None]]) -> Markup:
    """Counts by equal bins from 0 to `top`, on a scale of logarithms, with named places on the axis."""
    width, height, left, bottom = 560, 170, 60, 40
    plot = height - bottom - 16
    most = max(bins, default=0)
    scale = plot / math.log10(1 + most) if most else 0.0
    step = (width - left - 10) / max(1, len(bins))
    parts: list[str] = []
    for exponent in range(math.ceil(math.log10(1 + most)) if most else 0):
        y = round(16 + plot - scale * math.log10(1 + 10**exponent), 1)
        parts += [
            _line(left, y, width - 10, y, "grid"),
            _text(left - 6, y + 4, f"{10**exponent:,}", "tick end"),
        ]
    for at, n in enumerate(bins):
        tall = round(scale * math.log10(1 + n), 1)
        if n:
            parts.append(
                f'<rect class="bar" x="{left + at * step + 0.5:.1f}" y="{16 + plot - tall:.1f}"'
                f' width="{max(step - 1, 1):.1f}" height="{tall}"/>'
            )
    floor = 16 + plot
    parts.append(_line(left, floor, width - 10, floor, "axis"))
    for name, value in marks:
        if value is not None and top > 0:
            x = round(left + min(value / top, 1.0) * (width - left - 10), 1)
            parts += [_line(x, floor, x, floor + 6, "axis"), _line(x, 14, x, floor, "mark"),
                      _text(x, 10, name, "tick"), _text(x, floor + 19, significant(value), "tick")]  # fmt: skip
    parts.append(_text(left, floor + 19, "0", "tick"))
    words = f"histogram of {sum(bins):,} activations from 0 to {significant(top)}"
    return _svg(width, height, "plot", words, parts)


@dataclass(frozen=True)
class Dot:
    """A point of a scatter plot."""

    x: float
    y: float
    low: float | None
    high: float | None
    null: float | None
    """Drawn as a cross."""

    name: str
    series: int
    best: bool = False


@dataclass(frozen=True)
class Axis:
    """What an axis shows."""

    title: str
    log: bool = False
    whole: bool = False
    """Only whole numbers have ticks."""


def scatter(dots: Sequence[Dot], x: Axis, y: Axis, *, joined: bool) -> Markup:
    """Points with intervals, and their nulls as crosses; those of a series are joined where asked."""
    width, height, left, bottom = 560, 300, 76, 48
    xs = [_position(d.x, x) for d in dots]
    ys = [v for d in dots for v in (d.y, d.low, d.high, d.null) if v is not None]
    x_low, x_high = _spread(min(xs), max(xs))
    y_low, y_high = _spread(min(ys), max(ys))

    def at_x(value: float) -> float:
        return round(left + (value - x_low) / (x_high - x_low) * (width - left - 14), 1)

    def at_y(value: float) -> float:
        return round(height - bottom - (value - y_low) / (y_high - y_low) * (height - bottom - 14), 1)

    parts = [_line(left, height - bottom, width - 14, height - bottom, "axis")]
    for tick in _ticks(y_low, y_high):
        parts += [_line(left, at_y(tick), width - 14, at_y(tick), "grid"),
                  _text(left - 8, at_y(tick) + 4, significant(tick), "tick end")]  # fmt: skip
    last = -1e9
    for value in sorted({d.x for d in dots}) if x.log or x.whole else _ticks(x_low, x_high):
        at = at_x(_position(value, x))
        parts.append(_line(at, height - bottom, at, height - bottom + 5, "axis"))
        if at - last >= 34:
            parts.append(_text(at, height - bottom + 19, significant(value), "tick"))
            last = at
    if joined:
        parts += _curves(dots, at_x, at_y, x)
    for dot in dots:
        parts += _dot(dot, at_x(_position(dot.x, x)), at_y)
    turned = f"translate(14 {height / 2 - 10}) rotate(-90)"
    parts.append(_text((left + width) / 2, height - 8, x.title, "title"))
    parts.append(f'<text class="title" transform="{turned}">{escape(y.title)}</text>')
    words = f"{y.title} by {x.title}: " + "; ".join(f"{d.name} {figure(d.y)}" for d in dots)
    return _svg(width, height, "plot", words, parts)


def _position(value: float, axis: Axis) -> float:
    return math.log(max(value, 1e-9)) if axis.log else value


def _curves(dots: Sequence[Dot], at_x: Placed, at_y: Placed, x: Axis) -> list[str]:
    curves: dict[int, list[Dot]] = {}
    for dot in sorted(dots, key=lambda d: d.x):
        curves.setdefault(dot.series, []).append(dot)
    return [
        f'<polyline class="curve s{series % SERIES}" points="'
        + " ".join(f"{at_x(_position(d.x, x))},{at_y(d.y)}" for d in curve)
        + '"/>'
        for series, curve in curves.items()
        if len(curve) > 1
    ]


def _dot(dot: Dot, x: float, at_y: Placed) -> list[str]:
    colour = f"s{dot.series % SERIES}"
    parts: list[str] = []
    if dot.low is not None and dot.high is not None:
        parts.append(_line(x, at_y(dot.low), x, at_y(dot.high), f"whisker {colour}"))
    if dot.null is not None:
        y = at_y(dot.null)
        parts.append(f'<path class="null {colour}" d="M{x - 4} {y - 4}l8 8m-8 0l8 -8"/>')
    shape = _shape(dot.series % SERIES, x, at_y(dot.y), 7 if dot.best else 5)
    best, said = (" best", " (best)") if dot.best else ("", "")
    title = escape(visible(f"{dot.name}: {figure(dot.y)}{said}"))
    parts.append(f'<path class="dot {colour}{best}" d="{shape}"><title>{title}</title></path>')
    return parts


def _shape(series: int, x: float, y: float, r: float) -> str:
    """Circle, square, triangle, diamond in turn: colour is not the only thing that tells series apart."""
    match series % 4:
        case 0:
            return f"M{x - r} {y}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z"
        case 1:
            return f"M{x - r} {y - r}h{2 * r}v{2 * r}h{-2 * r}z"
        case 2:
            return f"M{x} {y - r}l{r} {2 * r}h{-2 * r}z"
        case _:
            return f"M{x} {y - r - 1}l{r + 1} {r + 1}l{-r - 1} {r + 1}l{-r - 1} {-r - 1}z"


def _spread(low: float, high: float) -> tuple[float, float]:
    gap = (high - low) or abs(high) or 1.0
    return low - 0.06 * gap, high + 0.06 * gap


def _ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers between two."""
    raw = (high - low) / 5
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw)
    first = math.ceil(low / step)
    return [round(i * step, 12) for i in range(first, math.floor(high / step) + 1)]


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"/>'


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(visible(text))}</text>'


def _svg(width: float, height: float, kind: str, words: str, parts: Sequence[str]) -> Markup:
    # Every text among the parts was escaped where it was put in.
    return Markup(
        f'<svg class="{kind}" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img"'
        f' aria-label="{escape(visible(words))}">{"".join(parts)}</svg>'
    )

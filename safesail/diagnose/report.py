"""A diagnosis as one HTML file that loads nothing and runs no script."""

from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined

from safesail.diagnose.firing import has_tags
from safesail.diagnose.path import PredictionPath
from safesail.diagnose.run import Diagnosis
from safesail.domain.text import clean_text
from safesail.domain.undefined import Undefined
from safesail.files import whole_file

_TEMPLATE = Path(__file__).with_name("report.html.j2")
_STEPS = 10
"""Shades; the darkest is 1: the feature's Q(0.999)."""


def write_report(diagnosis: Diagnosis, model: str, path: Path) -> None:
    """Write the report; it appears whole or not at all.

    Raises:
        DataError: it cannot be written there.
    """
    with whole_file(path) as partial:
        partial.write_text(render(diagnosis, model), encoding="utf-8")


def render(diagnosis: Diagnosis, model: str) -> str:
    """The report as HTML. Every text in it is escaped and clean of control characters."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    fired = diagnosis.fired
    is_tagged = fired["tags"].map(has_tags).astype(bool)
    tagged = bool(is_tagged.any())
    shown = fired.loc[is_tagged] if tagged else fired
    firing = set(shown["sae"])
    by_layer = sorted(diagnosis.unexplained, key=lambda u: (u.layer is None, u.layer, u.sae))
    return template.render(
        model=clean_text(model),
        n_tokens=len(diagnosis.tokens),
        n_features=fired["feature"].nunique(),
        saes=[u.sae for u in by_layer],
        silent=[u.sae for u in by_layer if u.sae not in firing],
        tagged=tagged,
        path=None if diagnosis.path is None else _drawn(diagnosis, diagnosis.path),
        lanes=[{"sae": u.sae, "cells": _lane(diagnosis, shown.loc[shown["sae"] == u.sae])}
               for u in by_layer if u.sae in firing],
        strongest=[_cells(row) for row in diagnosis.strongest(tagged=tagged).to_dict("records")],
        unexplained=[
            {"sae": u.sae, "n_features": u.n_features, "n_explained": u.n_explained,
             "share": _percent(u.share_unexplained), "variance": _percent(u.variance_unexplained)}
            for u in by_layer
        ],
    )  # fmt: skip


COLUMN, ROW, MARGIN = 52, 100, 60
"""Of the drawn path, in pixels: of a token, of a layer, and round them."""

ABREAST = 3
"""Dots of one token and layer that stand side by side."""


def _drawn(diagnosis: Diagnosis, path: PredictionPath) -> dict[str, Any]:
    """The path as coordinates: tokens from left to right, layers from below, the prediction above the last token."""
    nodes, tokens = path.nodes.to_dict("records"), diagnosis.tokens
    prompt = [i for i, role in enumerate(tokens.roles) if role != "answer"]
    layers = sorted({node["layer"] for node in nodes})
    height = MARGIN + ROW * (len(layers) + 1)
    centres: dict[tuple[str, int], tuple[float, float]] = {}
    stacked: dict[tuple[int, int], int] = {}
    largest = max((abs(node["attribution"]) for node in nodes), default=1.0)
    for node in nodes:
        cell = (node["layer"], node["position"])
        stacked[cell] = stacked.get(cell, 0) + 1
        row, column = divmod(stacked[cell] - 1, ABREAST)
        x = MARGIN + COLUMN * (node["position"] + 0.5) + 14 * (column - (ABREAST - 1) / 2)
        y = height - ROW * (1 + layers.index(node["layer"])) - 14 * row
        centres[node["feature"], node["position"]] = (x, y)
    goal = (MARGIN + COLUMN * (prompt[-1] + 0.5), 28.0)

    def line(a: tuple[float, float], b: tuple[float, float], weight: float) -> dict[str, Any]:
        middle = (a[1] + b[1]) / 2
        return {
            "d": f"M{a[0]:.0f} {a[1]:.0f} C{a[0]:.0f} {middle:.0f} {b[0]:.0f} {middle:.0f} {b[0]:.0f} {b[1]:.0f}",
            "width": round(0.6 + 4 * min(1.0, abs(weight) / largest), 2), "sign": _sign(weight),
        }  # fmt: skip

    edges = [
        line(
            centres[e["from_feature"], e["from_position"]],
            centres[e["to_feature"], e["to_position"]],
            e["attribution"],
        )
        for e in path.edges.to_dict("records")
    ]
    edges += [line(centres[n["feature"], n["position"]], goal, n["attribution"]) for n in nodes]
    return {
        "target": clean_text(path.target), "kept": _percent(path.kept), "total": f"{path.total:.2f}",
        "width": 2 * MARGIN + COLUMN * len(prompt), "height": height + 70, "base": height, "goal": goal, "edges": edges,
        "layers": [{"name": layer, "y": height - ROW * (1 + i)} for i, layer in enumerate(layers)],
        "tokens": [
            {"x": MARGIN + COLUMN * (i + 0.5), "text": clean_text(tokens.strings[i]).replace("\n", "⏎")[:12]}
            for i in prompt
        ],
        "nodes": [
            {"x": centres[n["feature"], n["position"]][0], "y": centres[n["feature"], n["position"]][1],
             "r": round(2.5 + 4 * abs(n["attribution"]) / largest, 1), "sign": _sign(n["attribution"]),
             "title": clean_text(f"{n['feature']} on {n['token']!r}: {n['attribution']:+.2f}{_said(n['explanation'])}")}
            for n in nodes
        ],
        "table": [_cells(n) for n in path.strongest_first().to_dict("records")],
    }  # fmt: skip


def _sign(weight: float) -> str:
    return "adds" if weight >= 0 else "takes"


def _said(explanation: Any) -> str:
    return f"; {explanation}" if isinstance(explanation, str) else ""


def _lane(diagnosis: Diagnosis, fired: pd.DataFrame) -> list[dict[str, Any]]:
    """One cell per token; tokens that are pieces of one character are one cell, as strong as the strongest of them."""
    ranked = fired.sort_values(["normalised", "value"], ascending=False, na_position="last", kind="stable")
    strongest: list[Any] = list(ranked.drop_duplicates("position").itertuples())
    rows = {int(row.position): row for row in strongest}
    cells: list[dict[str, Any]] = []
    for positions, text in _characters(diagnosis):
        own = sorted((rows[i] for i in positions if i in rows), key=_heat, reverse=True)
        cells.append(
            {
                "role": diagnosis.tokens.roles[positions[0]],
                "text": clean_text(text),
                "heat": _heat(own[0]) if own else 0,
                "title": _title(own[0]) if own else "",
            }
        )
    return cells


def _characters(diagnosis: Diagnosis) -> list[tuple[list[int], str]]:
    """Positions of tokens with the text that they make; those that share a character stand together."""
    tokens = diagnosis.tokens
    groups: list[tuple[list[int], str]] = []
    start = stop = 0
    for position, (span, role) in enumerate(zip(tokens.spans, tokens.roles, strict=True)):
        text = diagnosis.answer if role == "answer" else diagnosis.prompt
        if span is None or text is None:
            groups.append(([position], tokens.strings[position]))
        elif groups and tokens.roles[position - 1] == role and span[0] < stop:
            stop = max(stop, span[1])
            groups[-1] = ([*groups[-1][0], position], text[start:stop])
        else:
            start, stop = span
            groups.append(([position], text[start:stop]))
    return groups


def _heat(row: Any) -> int:
    if row is None or pd.isna(row.normalised):
        return 0
    return max(1, min(_STEPS, round(_STEPS * float(row.normalised))))


def _title(row: Any) -> str:
    strength = f"{row.value:.2f}" if pd.isna(row.normalised) else f"{row.normalised:.2f} of Q(0.999)"
    return clean_text(f"{row.feature}, {strength}{_said(row.explanation)}").replace("\n", " ")


def _cells(row: dict[str, Any]) -> dict[str, str]:
    return {name: _shown(name, value) for name, value in row.items()}


def _shown(name: str, value: Any) -> str:
    if name == "tags":
        return clean_text(", ".join(value)) if has_tags(value) else "-"
    if value is None or pd.isna(value):
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else clean_text(str(value)).replace("\n", "⏎")


def _percent(value: float | Undefined) -> str:
    return f"undefined: {value.reason}" if isinstance(value, Undefined) else f"{100 * value:.0f} %"

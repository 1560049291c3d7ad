"""Are the labels any good? By author: how many can be read, repeat each other, beat chance, and beat a look-up."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from pathlib import Path
from typing import Any

import numpy as np

from safesail.domain.undefined import Undefined
from safesail.errors import NotFoundError
from safesail.metrics.correlation import bootstrap_interval
from safesail.store.audit import AuditedScore, Method, TextCounts, audit_method, audited_scores, text_counts
from safesail.store.connection import Db

DRAWS = 2000
SEED = 0


@dataclass(frozen=True)
class Audit:
    """What is known of the explanations that one author gave for one SAE."""

    sae_id: str
    origin: str
    explainer: str
    explanations: int
    readable: int
    empty: int
    masked: int
    failed: int
    duplicated: int
    """Readable ones whose very words stand for another feature too."""

    unlike: int
    """Readable ones that share no word with what any other author says of the same feature."""

    compared: int
    """Readable ones of a feature of which another author says something too."""

    scored: int
    """With a value, by the one way of scoring that the audit goes by."""

    undefined: int
    unanswered: int
    """Scores that failed."""

    mean: float | None
    low: float | None
    high: float | None
    """Mean score, with the 95 % bootstrap interval over features; None: fewer than two features are scored."""

    chance: float | None
    """Mean of the same with another feature's explanation, over the scores that have one."""

    lookup: float | None
    """Mean score of a table token -> mean activation on the same texts."""

    beat_chance: int
    """Scores whose interval lies above the author's mean chance line."""

    below_chance: int
    """Scores whose interval lies below it."""

    beat_lookup: int
    below_lookup: int
    """Scores that differ from their look-up's by more than the interval of the difference."""

    against_lookup: int
    """Scores for which a look-up was measured."""

    contradicted: int
    """Scores whose interval does not meet that of another author's explanation of the same feature."""

    tokens: int | None
    """Billed for the scores; None: nobody knows."""


@dataclass(frozen=True)
class AuditReport:
    """All authors of all SAEs, the best-founded first, and how the scores were made."""

    authors: tuple[Audit, ...]
    methods: dict[str, str | None]
    """By SAE: method and simulator; None where nothing is scored."""


def audit(db: Db, sae_id: str | None = None) -> AuditReport:
    """Audit an open catalog.

    Raises:
        NotFoundError: it has no explanation of such an SAE.
    """
    counts = [c for c in text_counts(db) if sae_id in (None, c.sae_id)]
    if not counts:
        raise NotFoundError(f"no explanation{'' if sae_id is None else f' of {sae_id}'} in this catalog")
    authors: list[Audit] = []
    methods: dict[str, str | None] = {}
    for sae in dict.fromkeys(c.sae_id for c in counts):
        method = audit_method(db, sae)
        scores = [] if method is None else audited_scores(db, sae, method)
        methods[sae] = None if method is None else _named(method)
        judged = [judge(c, scores) for c in counts if c.sae_id == sae]
        authors += sorted(
            judged, key=lambda a: (a.mean is None, -(a.mean or 0.0), -a.readable, a.origin, a.explainer)
        )
    return AuditReport(tuple(authors), methods)


def _named(method: Method) -> str:
    return f"{method[0]}, simulator {method[1]}"


def judge(counts: TextCounts, scores: Sequence[AuditedScore]) -> Audit:
    """What the texts and scores of one author amount to. Pure.

    Args:
        counts: Of the author.
        scores: Of all authors of the SAE.
    """
    own = [s for s in scores if (s.origin, s.explainer) == (counts.origin, counts.explainer)]
    values = [s.value for s in own if s.value is not None]
    chance = _mean([s.chance for s in own])
    low, high = _interval(values)
    tokens = [s.tokens for s in own if s.tokens is not None]
    against = [s for s in own if s.lookup is not None]
    bounded = [s for s in own if s.low is not None and s.high is not None]
    return Audit(
        counts.sae_id, counts.origin, counts.explainer, counts.explanations, counts.readable, counts.empty,
        counts.masked, counts.failed, counts.duplicated, counts.compared - counts.shared_words, counts.compared,
        scored=len(values),
        undefined=sum(s.value is None and s.error is None for s in own),
        unanswered=sum(s.error is not None for s in own),
        mean=_mean(values), low=low, high=high, chance=chance, lookup=_mean([s.lookup for s in against]),
        beat_chance=0 if chance is None else sum((s.low or 0.0) > chance for s in bounded),
        below_chance=0 if chance is None else sum((s.high or 0.0) < chance for s in bounded),
        beat_lookup=sum(s.gain_low is not None and s.gain_low > 0 for s in against),
        below_lookup=sum(s.gain_high is not None and s.gain_high < 0 for s in against),
        against_lookup=len(against),
        contradicted=len(contradictions(scores) & {s.explanation_id for s in own}),
        tokens=sum(tokens) if tokens else None,
    )  # fmt: skip


def contradictions(scores: Sequence[AuditedScore]) -> set[str]:
    """Explanations of which another author's, for the same feature, has a score too far off to be as true. Pure."""
    apart: set[str] = set()
    for _, of_one in groupby(sorted(scores, key=lambda s: s.feature), key=lambda s: s.feature):
        bounded = [s for s in of_one if s.low is not None and s.high is not None]
        for a, b in combinations(bounded, 2):
            assert a.low is not None and a.high is not None and b.low is not None and b.high is not None
            if (a.origin, a.explainer) != (b.origin, b.explainer) and (a.high < b.low or b.high < a.low):
                apart |= {a.explanation_id, b.explanation_id}
    return apart


def _mean(figures: Sequence[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return float(np.mean(known)) if known else None


def _interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    if len(values) < 2:
        return None, None

    figures = np.array(values)
    judged = bootstrap_interval(lambda drawn: float(figures[drawn].mean()), len(values), DRAWS, SEED)
    return (None, None) if isinstance(judged, Undefined) else judged


def plot_audit(report: AuditReport, out: Path) -> None:
    """Draw each author's mean score with its interval, the chance line and the look-up on one axis.

    Raises:
        NotFoundError: nothing is scored.
    """
    from matplotlib.figure import Figure  # half a second to import

    shown = [author for author in report.authors if author.mean is not None]
    if not shown:
        raise NotFoundError(
            "nothing is scored; run `safesail score --origin NAME` on a harvest of your own first"
        )
    figure = Figure(figsize=(9, 1.4 + 0.55 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for row, author in enumerate(reversed(shown)):
        _draw(axes, row, author)
    axes.set_yticks(range(len(shown)), [_label(author) for author in reversed(shown)])
    axes.set(xlim=(-0.2, 1.0), ylim=(-0.6, len(shown) - 0.4), xlabel="mean score, with its 95 % interval over features",
             title="How well explanations predict their features, by who wrote them")  # fmt: skip
    axes.axvline(0, color="0.8", linewidth=0.8, zorder=0)
    handles, labels = axes.get_legend_handles_labels()
    first = dict(zip(labels, handles, strict=True))
    axes.legend(first.values(), first.keys(), loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)


def _draw(axes: Any, row: int, author: Audit) -> None:
    assert author.mean is not None
    if author.low is not None and author.high is not None:
        axes.plot([author.low, author.high], [row, row], color="C0", linewidth=2)
    axes.plot([author.mean], [row], "o", color="C0", label="score")
    for figure, marker, colour, label in (
        (author.chance, "|", "0.4", "chance"), (author.lookup, "x", "C1", "look-up"),
    ):  # fmt: skip
        if figure is not None:
            axes.plot([figure], [row], marker, color=colour, markersize=11, label=label, linestyle="none")


def _label(author: Audit) -> str:
    return f"{author.origin}\n{author.explainer[:40]} ({author.scored:,})"

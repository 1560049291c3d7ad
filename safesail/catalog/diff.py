"""What changed between two catalogs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safesail.catalog.source import open_source
from safesail.domain.ids import FeatureId
from safesail.store.overview import comparable


@dataclass(frozen=True)
class Entry:
    """A feature as a catalog shows it."""

    explanation: str | None
    score: float | None
    low: float | None
    high: float | None
    tags: tuple[str, ...] = ()
    effect: str | None = None
    """Whether the feature is shown to do something."""


@dataclass(frozen=True)
class Moved:
    """A feature whose score changed by more than chance explains."""

    feature: FeatureId
    before: float
    after: float


@dataclass(frozen=True)
class Diff:
    """Differences from catalog A to catalog B, features in order."""

    added: tuple[FeatureId, ...]
    lost: tuple[FeatureId, ...]
    reexplained: tuple[FeatureId, ...]
    retagged: tuple[FeatureId, ...]
    moved: tuple[Moved, ...]
    """Scores whose 95 % intervals do not overlap."""

    unsure: tuple[Moved, ...]
    """Scores that differ, where a catalog gives no interval to judge by."""

    effects: tuple[FeatureId, ...]
    """Features that are shown to do something in one catalog and not in the other, or were not measured there."""

    same: int
    """Features with the same explanation, tags and effect, and scores within their intervals."""


def diff(a: Path, b: Path) -> Diff:
    """Compare two stores or releases.

    Raises:
        NotFoundError: one is not there.
        DataError: one is damaged.
    """
    return compare(_read(a), _read(b))


def compare(a: Mapping[FeatureId, Entry], b: Mapping[FeatureId, Entry]) -> Diff:
    """Differences between two catalogs' entries."""
    both = sorted(a.keys() & b.keys())
    reexplained = [f for f in both if a[f].explanation != b[f].explanation]
    retagged = [f for f in both if set(a[f].tags) != set(b[f].tags)]
    moved: list[Moved] = []
    unsure: list[Moved] = []
    for feature in both:
        before, after = a[feature].score, b[feature].score
        if before is None or after is None or before == after:
            continue
        apart = _apart(a[feature], b[feature])
        if apart is None:
            unsure.append(Moved(feature, before, after))
        elif apart:
            moved.append(Moved(feature, before, after))
    effects = [f for f in both if a[f].effect != b[f].effect]
    changed = {*reexplained, *retagged, *effects, *(m.feature for m in moved), *(m.feature for m in unsure)}
    return Diff(
        added=tuple(sorted(b.keys() - a.keys())),
        lost=tuple(sorted(a.keys() - b.keys())),
        reexplained=tuple(reexplained),
        retagged=tuple(retagged),
        moved=tuple(moved),
        unsure=tuple(unsure),
        effects=tuple(effects),
        same=len(both) - len(changed),
    )


def _apart(a: Entry, b: Entry) -> bool | None:
    """Do the intervals leave a gap? None where one is missing."""
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return None
    return a.high < b.low or b.high < a.low


def _read(path: Path) -> dict[FeatureId, Entry]:
    with open_source(path) as db:
        return {
            FeatureId(str(sae_id), int(index)): Entry(explanation, score, low, high, tuple(tags), effect)
            for sae_id, index, explanation, score, low, high, tags, effect in comparable(db)
        }

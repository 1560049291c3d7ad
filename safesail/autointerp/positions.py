"""Does it matter where in a prompt an explanation or a text stands? Told from rounds whose orders were drawn. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from safesail.autointerp.config import ScoringConfig
from safesail.autointerp.pools import Round
from safesail.autointerp.score import correlation
from safesail.autointerp.units import Simulated, segment_units
from safesail.domain.ids import FeatureId
from safesail.domain.undefined import Undefined
from safesail.metrics.correlation import bootstrap_interval

DRAWS = 2_000


@dataclass(frozen=True)
class Figure:
    """An estimate over features, with a 95 % bootstrap interval over them."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    """Features that have it."""

    @classmethod
    def mean(cls, values: Sequence[float]) -> "Figure":
        """The mean; None of one feature or none."""
        of = np.array(values, float)
        interval = bootstrap_interval(lambda drawn: float(of[drawn].mean()), len(of), DRAWS, seed=0)
        if isinstance(interval, Undefined):
            return cls(None, None, None, len(of))
        return cls(float(of.mean()), *interval, len(of))

    @property
    def text(self) -> str:
        """For people."""
        if self.value is None or self.low is None or self.high is None:
            return f"not known (of {self.n} features)"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass
class Halves:
    """What was said of a feature where something stood in the first half of a prompt, and in the second."""

    first: list[Simulated] = field(default_factory=list[Simulated])
    second: list[Simulated] = field(default_factory=list[Simulated])

    @property
    def difference(self) -> float | None:
        """How much better the first half predicts; None where one of the scores is undefined."""
        a, b = correlation(self.first), correlation(self.second)
        return None if isinstance(a, Undefined) or isinstance(b, Undefined) else a - b


@dataclass
class Positions:
    """Gathers rounds of pooled scoring by where explanations and texts stood in them."""

    config: ScoringConfig
    _explanations: dict[FeatureId, Halves] = field(default_factory=dict[FeatureId, Halves])
    _texts: dict[FeatureId, Halves] = field(default_factory=dict[FeatureId, Halves])

    def add(self, answer: Round) -> None:
        """Take a round: its ratings are in the order of the explanations, its windows in that of the texts."""
        for number, (feature, ratings) in enumerate(answer.ratings.items()):
            early = 2 * number < len(answer.ratings)
            for position, (window, rated) in enumerate(zip(answer.windows, ratings, strict=True)):
                if feature not in window.activations:
                    continue
                units = segment_units(window.tokens, window.activations[feature], self.config)
                said = Simulated(units, rated)
                _side(self._explanations, feature, early=early).append(said)
                _side(self._texts, feature, early=2 * position < len(answer.windows)).append(said)

    @property
    def explanations(self) -> Figure:
        """Score of explanations in the first half of the prompts' list, less that in the second, by feature."""
        return _mean_difference(self._explanations)

    @property
    def texts(self) -> Figure:
        """The same of the texts that are judged."""
        return _mean_difference(self._texts)


def _side(of: dict[FeatureId, Halves], feature: FeatureId, *, early: bool) -> list[Simulated]:
    halves = of.setdefault(feature, Halves())
    return halves.first if early else halves.second


def _mean_difference(of: dict[FeatureId, Halves]) -> Figure:
    return Figure.mean([d for halves in of.values() if (d := halves.difference) is not None])

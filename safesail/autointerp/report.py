"""What a walk over features came to."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from safesail.domain.ids import FeatureId


@dataclass
class RunReport:
    """What a run got for its tokens, counted as it goes."""

    sae_id: str
    run_id: str | None = None
    tokens: int = 0
    """Newly spent."""

    explained: list[FeatureId] = field(default_factory=list)
    scored: list[FeatureId] = field(default_factory=list)
    undefined: list[FeatureId] = field(default_factory=list)
    failed: list[FeatureId] = field(default_factory=list)
    shared: list[FeatureId] = field(default_factory=list)
    """Explained ones that took the explanation of a feature they are nearly the same as."""

    reasons: Counter[str] = field(default_factory=Counter[str])
    """Why features failed."""

    stopped_by: str | None = None
    """What the budget could not pay; None where it did not end."""

    left: int = 0
    """Features that the budget did not reach."""

    def fail(self, feature: FeatureId, error: str, reason: str) -> None:
        """Count a failure."""
        self.failed.append(feature)
        self.reasons[f"{error}: {reason}"] += 1

    @property
    def next_10k(self) -> int | None:
        """Features that 10,000 more tokens would finish, at this run's price; None: nothing was paid for."""
        finished = len(self.scored) + len(self.undefined)
        if not finished or not self.tokens:
            return None
        return min(self.left, int(10_000 * finished / self.tokens))

    def as_json(self) -> dict[str, Any]:
        """Counts, by name."""
        counted = {name: len(v) if isinstance(v, list) else v for name, v in vars(self).items()}
        return counted | {"reasons": dict(self.reasons.most_common()), "next_10k": self.next_10k}

    def as_text(self) -> str:
        """One line for people."""
        shared = f" ({len(self.shared)} share an explanation)" if self.shared else ""
        stopped = f"; the budget ended before {self.left} more" if self.left else ""
        more = f"; 10k more tokens would finish about {self.next_10k}" if self.left and self.next_10k else ""
        return (
            f"{self.sae_id}: {len(self.explained)} explained{shared}, {len(self.scored)} scored, "
            f"{len(self.undefined)} undefined, {len(self.failed)} failed for {self.tokens:,} new tokens{stopped}{more}"
        )

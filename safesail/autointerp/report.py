"""What a walk over features came to."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from safesail.domain.ids import FeatureId


@dataclass
class RunReport:
    """What a run got for its tokens, counted as it goes."""

    sae_id: str
    basis: str
    """Where the features come from."""

    run_id: str | None = None
    tokens: int = 0
    """Newly spent."""

    asked_again: int = 0
    """Questions sent anew, since the answer that an earlier run paid for was bad."""

    explained: list[FeatureId] = field(default_factory=list)
    scored: list[FeatureId] = field(default_factory=list)
    undefined: list[FeatureId] = field(default_factory=list)
    failed: list[FeatureId] = field(default_factory=list)
    shared: list[FeatureId] = field(default_factory=list)
    """Explained ones that took the explanation of a feature they are nearly the same as."""

    left_out: list[FeatureId] = field(default_factory=list)
    """Not explained, since they failed intruder detection."""

    paid: list[FeatureId] = field(default_factory=list)
    """Those that cost anything; the others came from the cache."""

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
        """For people."""
        shared = f" ({len(self.shared)} share an explanation)" if self.shared else ""
        reached = self.scored + self.undefined + self.failed
        cached = len(set(reached) - set(self.paid))
        lines = [
            f"{self.sae_id}: {self.basis}" if self.basis else self.sae_id,
            f"{len(self.explained)} explained{shared}, {len(self.scored)} scored, {len(self.undefined)} undefined, "
            f"{len(self.failed)} failed",
            f"{self.tokens:,} new tokens (features paid for: {len(self.paid)}, from the cache: {cached})",
        ]
        if self.left_out:
            lines.append(f"{len(self.left_out)} not explained: they failed intruder detection")
        if self.asked_again:
            again = "question was" if self.asked_again == 1 else "questions were"
            lines.append(f"{self.asked_again} {again} asked and paid again: the earlier answer was bad")
        if self.left:
            more = f"; 10k more tokens would finish about {self.next_10k}" if self.next_10k else ""
            lines.append(f"the budget ended before {self.left} more ({self.stopped_by}){more}")
        if self.reasons:
            ((reason, n),) = self.reasons.most_common(1)
            lines.append(f"most failures ({n} of {len(self.failed)}): {reason}")
        return "\n".join(lines)

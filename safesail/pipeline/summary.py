"""What a pipeline run amounts to, for people and as summary.json."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from safesail.pipeline.clock import StageTime


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval over features."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Summary:
    """How a pipeline run ended."""

    pipeline: str
    sae_id: str
    why: str
    """Why this SAE was chosen, in one line."""

    features_explained: int
    features_scored: int
    features_undefined: int
    features_failed: int
    score: Interval | None
    """Mean simulation score over scored features; None where none was scored."""

    chance: Interval | None
    """The same explanations shuffled among features."""

    tokens_spent: int
    """LLM tokens newly spent by this run; answers from the cache cost nothing."""

    tokens_total: int
    """LLM tokens that all runs on this store have spent."""

    model_tokens: int
    """Tokens that went through the subject model in this run."""

    disk_bytes: int
    """Of all that lies under the run's folder."""

    stopped_by_budget: bool
    stages: Mapping[str, StageTime]
    """What each stage of this run took, in their order."""

    store: str
    release: str

    @property
    def seconds(self) -> float:
        """Of the whole run, by the clock."""
        return sum(stage.seconds for stage in self.stages.values())

    def as_json(self) -> dict[str, Any]:
        """The fields of summary.json."""
        return {
            "pipeline": self.pipeline,
            "sae_id": self.sae_id,
            "why": self.why,
            "features_explained": self.features_explained,
            "features_scored": self.features_scored,
            "features_undefined": self.features_undefined,
            "features_failed": self.features_failed,
            "mean_score": None if self.score is None else self.score.mean,
            "mean_score_interval": None if self.score is None else [self.score.low, self.score.high],
            "chance_score": None if self.chance is None else self.chance.mean,
            "chance_score_interval": None if self.chance is None else [self.chance.low, self.chance.high],
            "tokens_spent": self.tokens_spent,
            "tokens_total": self.tokens_total,
            "stopped_by_budget": self.stopped_by_budget,
            "model_tokens": self.model_tokens,
            "disk_bytes": self.disk_bytes,
            "seconds": round(self.seconds, 1),
            "cpu_seconds": round(sum(s.cpu_seconds for s in self.stages.values()), 1),
            "stages": {name: asdict(stage) for name, stage in self.stages.items()},
            "store": self.store,
            "release": self.release,
        }

    def as_text(self) -> str:
        """The summary as people read it."""
        left_over = f"{self.features_undefined} undefined, {self.features_failed} failed"
        lines = [
            f"SAE          {self.sae_id}: {self.why}",
            f"explained    {self.features_explained} features",
            f"scored       {self.features_scored} ({left_over})",
            f"mean score   {self.score or 'undefined'}  95 % interval over features",
            f"chance line  {self.chance or 'undefined'}  the same explanations shuffled among features",
            f"LLM tokens   {self.tokens_spent:,} in this run, {self.tokens_total:,} in all",
            f"store        {self.store}",
            f"release      {self.release}",
            f"seconds      {self.seconds:.1f} ({', '.join(f'{n} {s.seconds:.1f}' for n, s in self.stages.items())})",
        ]
        if self.stopped_by_budget:
            lines.insert(3, "             stopped by the budget; run again with more to go on")
        return "\n".join(lines)

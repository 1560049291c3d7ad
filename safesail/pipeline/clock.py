"""What the stages of a run take."""

from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, process_time


@dataclass(frozen=True)
class StageTime:
    """Time that one stage took."""

    seconds: float
    """By the clock."""

    cpu_seconds: float
    """Of this process, on all cores together."""


@dataclass
class StageClock:
    """Measures stages that follow one another."""

    stages: dict[str, StageTime] = field(default_factory=dict[str, StageTime])
    _began: tuple[float, float] = field(init=False, default_factory=lambda: (perf_counter(), process_time()))

    def end(self, stage: str) -> None:
        """Give the time since the last stage ended to `stage`."""
        now = perf_counter(), process_time()
        self.stages[stage] = StageTime(round(now[0] - self._began[0], 2), round(now[1] - self._began[1], 2))
        self._began = now


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder and below it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

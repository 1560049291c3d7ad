"""A plan, for people and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from safesail.pipeline.plan.costs import Stage
from safesail.pipeline.plan.estimate import NOTHING, Estimate, total
from safesail.pipeline.plan.parts import ModelPart, SaePart

_COLUMNS = {
    "download": ("download", "bytes"),
    "disk": ("disk", "bytes"),
    "memory": ("memory", "bytes"),
    "model_tokens": ("tokens", "count"),
    "seconds": ("time", "seconds"),
    "llm_calls": ("LLM calls", "count"),
    "llm_tokens": ("LLM tokens", "count"),
    "dollars": ("dollars", "dollars"),
}
"""Heading and unit of every figure."""


@dataclass(frozen=True)
class RunPlan:
    """What a pipeline would take."""

    pipeline: str
    model: ModelPart
    saes: Sequence[SaePart]
    stages: Sequence[Stage]
    features: int
    """Features that would be explained."""

    finished: int | None
    """Of those, how many the budget finishes; None: a budget in dollars, and no prices."""

    budget: str
    disk_free: int
    """Bytes, where the run would write."""

    memory_there: int
    """Bytes of the machine."""

    @property
    def whole(self) -> dict[str, Estimate]:
        """Every figure of all stages: sums, and of memory the most."""
        return {name: _whole(name, [getattr(stage, name) for stage in self.stages]) for name in _COLUMNS}

    @property
    def to_do(self) -> list[str]:
        """What the user has to do first, each once."""
        return list(dict.fromkeys(sae.to_do for sae in self.saes if sae.to_do is not None))

    @property
    def fits(self) -> dict[str, bool | None]:
        """Whether there is room; None where what it takes is not known."""
        disk, memory = self.whole["disk"].value, self.whole["memory"].value
        return {
            "disk": None if disk is None else disk <= self.disk_free,
            "memory": None if memory is None else memory <= self.memory_there,
        }

    def as_json(self) -> dict[str, Any]:
        """All figures, each with what it rests on."""
        return {
            "pipeline": self.pipeline,
            "model": {"name": self.model.name, "source": self.model.source, "download": asdict(self.model.download)},
            "saes": [
                {
                    "name": sae.name, "source": sae.source, "layer": sae.layer, "d_sae": sae.d_sae, "l0": sae.l0,
                    "download": asdict(sae.download),
                }
                for sae in self.saes
            ],
            "stages": [_stage_json(stage) for stage in self.stages],
            "whole": {name: asdict(estimate) for name, estimate in self.whole.items()},
            "budget": self.budget,
            "features": self.features,
            "features_finished": self.finished,
            "disk_free": self.disk_free,
            "memory_there": self.memory_there,
            "fits": self.fits,
            "to_do": self.to_do,
        }  # fmt: skip

    def table(self) -> list[dict[str, str]]:
        """A row per stage, the whole last; empty cells: nothing of it; `?`: unknown, and `notes` say why."""
        rows = [{"stage": stage.stage, **_cells(vars(stage))} for stage in self.stages]
        whole = _cells(self.whole)
        if self.whole["seconds"].value is None:
            known = [s.seconds.value for s in self.stages if s.seconds.value is not None]
            whole["time"] = f"{_time(sum(known))} + ?"
        return [*rows, {"stage": "whole", **whole}]

    def notes(self) -> list[str]:
        """What people read beneath the table."""
        saes = f"{len(self.saes)} SAE{'s' if len(self.saes) > 1 else ''}"
        lines = [f"{self.model.name} and {saes}: {', '.join(dict.fromkeys(self._sources()))}"]
        finishes = "nobody knows how many" if self.finished is None else f"{self.finished:,}"
        lines.append(f"budget {self.budget}: finishes {finishes} of {self.features:,} features")
        for what, there in (("disk", self.disk_free), ("memory", self.memory_there)):
            needed, fits = self.whole[what], self.fits[what]
            verdict = (
                "it is not known whether it fits" if fits is None else "fits" if fits else "DOES NOT FIT"
            )
            lines.append(
                f"{what}: {written(needed, 'bytes')} of {written(Estimate(there, ''), 'bytes')}: {verdict}"
            )
        missing = [sae for sae in self.saes if sae.to_do is not None]
        lines += [f"not here: {', '.join(sae.name for sae in missing)}"] if missing else []
        lines += [f"first: {todo}" for todo in self.to_do]
        return lines

    def assumptions(self) -> list[str]:
        """What each figure rests on, or why it is unknown; one line for figures of a stage that rest on the same."""
        lines: list[str] = []
        for stage in self.stages:
            headings: dict[str, list[str]] = {}
            for name, (heading, _) in _COLUMNS.items():
                estimate = getattr(stage, name)
                if estimate is not None and estimate.value != 0:
                    unknown = "unknown, " if estimate.value is None else ""
                    headings.setdefault(unknown + estimate.basis, []).append(heading)
            lines += [f"{stage.stage}, {' and '.join(of)}: {basis}" for basis, of in headings.items()]
        return lines

    def _sources(self) -> list[str]:
        return [self.model.source, *(sae.source for sae in self.saes)]


def written(estimate: Estimate, unit: str) -> str:
    """An estimate as people read it."""
    value = estimate.value
    if value is None:
        return "?"
    match unit:
        case "bytes":
            return _scaled(value, ("B", "kB", "MB", "GB", "TB"))
        case "seconds":
            return _time(value)
        case "dollars":
            return f"${value:,.2f}"
        case _:
            return _scaled(value, ("", "k", "M", "B"))


def _scaled(value: float, units: Sequence[str]) -> str:
    scale = 0
    while value >= 999.5 and scale < len(units) - 1:
        value, scale = value / 1000, scale + 1
    number = f"{value:.0f}" if value >= 99.5 or scale == 0 else f"{value:.3g}"
    return f"{number} {units[scale]}".strip()


def _time(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_940 else f"{seconds / 3600:.1f} h"


def _cells(figures: Any) -> dict[str, str]:
    cells: dict[str, str] = {}
    for name, (heading, unit) in _COLUMNS.items():
        estimate = figures[name]
        cells[heading] = "" if estimate is None or estimate.value == 0 else written(estimate, unit)
    return cells


def _whole(name: str, estimates: Sequence[Estimate | None]) -> Estimate:
    parts = [estimate for estimate in estimates if estimate is not None]
    if not parts:
        return NOTHING
    if name == "memory":
        return max(parts, key=lambda part: float("inf") if part.value is None else part.value)
    return total(parts, "all stages")


def _stage_json(stage: Stage) -> dict[str, Any]:
    figures = {name: None if (e := getattr(stage, name)) is None else asdict(e) for name in _COLUMNS}
    cpu = None if stage.cpu_seconds is None else asdict(stage.cpu_seconds)
    return {"stage": stage.stage, **figures, "cpu_seconds": cpu}

"""An explanation with everything an exporter may want."""

from dataclasses import dataclass
from typing import Self

from safesail.store.sql import Row


@dataclass(frozen=True)
class ExportRow:
    """One explanation, its feature, and its best score."""

    explanation_id: str
    sae_id: str
    model_id: str
    layer: int | None
    hook: str
    index: int
    text: str | None
    masked: bool
    lang: str
    explainer: str
    origin: str
    error: str | None
    message: str | None
    density: float | None
    maximum: float | None
    score: float | None
    low: float | None
    high: float | None
    chance: float | None
    tags: tuple[str, ...]

    @classmethod
    def of(cls, row: Row) -> Self:
        """Out of a row of the store."""
        return cls(*row[:-1], tags=tuple(row[-1]))

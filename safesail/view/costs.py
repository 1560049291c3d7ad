"""What the catalog cost: the ledger by stage, model and run, and what that bought."""

from dataclasses import dataclass
from typing import Any

from safesail.store.calls import ledger_rows
from safesail.store.registry import all_runs
from safesail.view.desk import Desk

BY = (("stage",), ("model",), ("run_id",))


@dataclass(frozen=True)
class CostPage:
    """The ledger on a page."""

    tokens: int
    dollars: float | None
    """None: no call has a price."""

    per_explained: float | None
    """Tokens per explained feature."""

    per_scored: float | None
    tables: tuple[tuple[str, tuple[dict[str, Any], ...]], ...]
    """By stage, model and run; each has its name in the first column."""

    runs: tuple[dict[str, Any], ...]


def cost_page(desk: Desk) -> CostPage:
    """Sum up the ledger."""
    tables = tuple((by[0].removesuffix("_id"), tuple(ledger_rows(desk.db, by))) for by in BY)
    prices = [row["dollars"] for row in tables[0][1] if row["dollars"] is not None]
    tokens, counts = desk.tokens_spent, desk.totals
    return CostPage(
        tokens=tokens,
        dollars=sum(prices) if prices else None,
        per_explained=tokens / counts.explained if tokens and counts.explained else None,
        per_scored=tokens / counts.scored if tokens and counts.scored else None,
        tables=tables,
        runs=tuple(all_runs(desk.db)),
    )

"""Results on stdout: a table for people, JSON for programs."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

import click

WIDE = 4_000
"""Columns of a table that no person is looking at."""


def print_json(value: Any) -> None:
    """One JSON document; records become objects, unknown values null."""
    click.echo(json.dumps(plain(value), ensure_ascii=False, indent=2, allow_nan=False))


def print_table(rows: Sequence[Mapping[str, Any]], *, title: str | None = None) -> None:
    """A table with one column a key of the first row; numbers right, unknown values as a dash."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        click.echo("nothing to show")
        return
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        numeric = all(isinstance(row[name], int | float | None) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(row[name])) for name in rows[0]))
    # Into a pipe or a file nothing is folded: a line is a row.
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)


def shown(cell: Any) -> str:
    """A value as people read it."""
    match cell:
        case None:
            return "-"
        case bool():
            return "yes" if cell else "no"
        case int():
            return f"{cell:,}"
        case float():
            return f"{cell:.3f}" if abs(cell) >= 0.001 or not cell else f"{cell:.1e}"
        case list() | tuple():
            return ", ".join(shown(part) for part in cell)
        case _:
            return str(cell)


def plain(value: Any) -> Any:
    """Records, paths and other values as JSON can hold them."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(part) for part in value]
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    return str(value)

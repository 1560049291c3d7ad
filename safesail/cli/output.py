"""Results on stdout: a table for people, JSON for programs."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import click

from safesail.cli.terminal import CleanStream, clean, escape_json

if TYPE_CHECKING:
    from rich.console import RenderableType

GAP = 2
"""Blanks between columns."""

LEAST = 14
"""Cells that a column of text may be narrowed to."""


def print_json(value: Any) -> None:
    """One JSON document; records become objects, unknown values null."""
    click.echo(escape_json(json.dumps(plain(value), ensure_ascii=False, indent=2, allow_nan=False)))


def print_json_rows(rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON array, written as its rows come."""
    start = "[\n"
    for row in rows:
        line = json.dumps(plain(row), ensure_ascii=False, allow_nan=False)
        click.echo(start + escape_json(line), nl=False)
        start = ",\n"
    click.echo("\n]" if start == ",\n" else "[]")


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """A table whose columns are the keys of the first row, the most important first.

    Numbers stand right and are never broken, unknown values are a dash. In a pipe or a file each row is one line,
    whole. On a terminal long texts are cut at their end (`--full` folds them instead) and names in their middle,
    where they are wider than half of it; columns that find no room are left out and named on stderr.
    """
    if not rows:
        click.echo("nothing to show")
        return
    width = None
    if sys.stdout.isatty():
        from shutil import get_terminal_size

        width = get_terminal_size().columns
    context = click.get_current_context(silent=True)
    full = context is not None and bool(context.meta.get("full"))
    lines, left_out = layout(rows, width=width, full=full)
    click.echo("\n".join(lines))
    if left_out:
        click.echo(f"no room for {', '.join(left_out)}; a wider terminal or --json shows them", err=True)


def layout(
    rows: Sequence[Mapping[str, Any]], *, width: int | None, full: bool
) -> tuple[list[str], list[str]]:
    """Lines of a table, and the columns that found no room in `width` cells; None: no limit."""
    from rich.cells import cell_len

    names = list(rows[0])
    is_number = {n: all(isinstance(row[n], int | float | None) for row in rows) for n in names}
    cells = [{n: _one_line(shown(row[n])) for n in names} for row in rows]
    is_name = {n: not is_number[n] and not any(" " in row[n] for row in cells) for n in names}
    wanted = {n: max(cell_len(_one_line(n)), *(cell_len(row[n]) for row in cells)) for n in names}
    widths, left_out = dict(wanted), list[str]()
    if width is not None:
        most = {n: wanted[n] if is_number[n] else width // 2 if is_name[n] else LEAST for n in names}
        widths = _fitted(wanted, {n: min(wanted[n], most[n]) for n in names}, width)
        left_out = [n for n in names if n not in widths]
    lines: list[str] = []
    for row in ({n: _one_line(n) for n in names}, *cells):
        folded = [_folded(row[n], w, full=full, is_name=is_name[n]) for n, w in widths.items()]
        lines += [
            (" " * GAP)
            .join(_padded(part, widths[n], right=is_number[n]) for n, part in zip(widths, parts, strict=True))
            .rstrip()
            for parts in zip_longest(*folded, fillvalue="")
        ]
    return lines, left_out


def _fitted(wanted: Mapping[str, int], least: Mapping[str, int], width: int) -> dict[str, int]:
    """Widths of the columns that find room, in their order; what is left over goes to the first texts."""
    widths: dict[str, int] = {}
    for name, cells in least.items():
        if not widths or sum(widths.values()) + GAP * len(widths) + cells <= width:
            widths[name] = cells
    spare = width - sum(widths.values()) - GAP * (len(widths) - 1)
    for name in widths:
        more = max(0, min(spare, wanted[name] - widths[name]))
        widths[name] += more
        spare -= more
    return widths


def _folded(cell: str, width: int, *, full: bool, is_name: bool) -> list[str]:
    """Lines of a cell; a name, which may differ from the next one at its end alone, keeps both ends."""
    from rich.cells import cell_len, chop_cells, set_cell_size

    if cell_len(cell) <= width:
        return [cell]
    if full:
        return chop_cells(cell, width)
    if not is_name or cell_len(cell) != len(cell):
        return [set_cell_size(cell, width - 1) + "…"]
    end = (width - 1) // 2
    return [f"{cell[: width - 1 - end]}…{cell[len(cell) - end :]}"]


def _padded(cell: str, width: int, *, right: bool) -> str:
    from rich.cells import cell_len

    blanks = " " * (width - cell_len(cell))
    return blanks + cell if right else cell + blanks


def _one_line(text: str) -> str:
    return clean(text).replace("\n", "⏎").replace("\t", " ")


_NO_WIDTH = 1_000_000
"""Cells of a line that no text fills."""


def print_styled(renderable: "RenderableType") -> None:
    """What rich draws: coloured on a terminal, its text cleaned; plain in a pipe, where no line is broken."""
    from rich.console import Console
    from rich.segment import Segment, Segments

    stream = sys.stdout.styled if isinstance(sys.stdout, CleanStream) else sys.stdout
    console = Console(file=stream, highlight=False, width=None if sys.stdout.isatty() else _NO_WIDTH)
    parts = [Segment(clean(s.text), s.style) for s in console.render(renderable) if not s.control]
    console.print(Segments(parts), end="")


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

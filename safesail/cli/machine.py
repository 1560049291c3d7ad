"""`safesail doctor`."""

import click

from safesail.cli.options import json_option, store_option
from safesail.cli.output import print_json, print_table


@click.command()
@store_option()
@json_option()
def doctor(store: object, as_json: bool) -> None:
    """Say what works here: torch, device, model files, endpoint, disk.

    \b
    Example:
        safesail doctor --json
    """
    from pathlib import Path

    from safesail.cli.examine import examine

    rows = [{"what": c.what, "ok": c.ok, "detail": c.detail} for c in examine(Path(str(store)))]
    print_json(rows) if as_json else print_table(rows)
    if not all(row["ok"] for row in rows):
        raise click.exceptions.Exit(3)

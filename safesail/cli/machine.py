"""`safesail doctor` and `safesail migrate`."""

from pathlib import Path

import click

from safesail.cli.options import json_option, store_option
from safesail.cli.output import print_json, print_table


@click.command()
@store_option()
@json_option()
def doctor(store: Path, as_json: bool) -> None:
    """Say what works here: torch, device, model files, endpoint, disk.

    \b
    Example:
        safesail doctor --json
    """
    from safesail.cli.examine import examine

    rows = [{"what": c.what, "ok": c.ok, "detail": c.detail} for c in examine(store)]
    print_json(rows) if as_json else print_table(rows)
    if not all(row["ok"] for row in rows):
        raise click.exceptions.Exit(3)


@click.command()
@store_option()
def migrate(store: Path) -> None:
    """Bring a store that an older version wrote up to date; what it holds is kept.

    \b
    Example:
        safesail migrate --store runs/old/safesail.duckdb
    """
    from safesail.errors import NotFoundError
    from safesail.store.connection import open_writer

    if not store.is_file():
        raise NotFoundError(f"no store at {store}")
    with open_writer(store):
        click.echo(f"{store} is up to date")

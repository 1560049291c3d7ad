"""`safesail models` and `safesail fetch`."""

import click

from safesail.cli.options import json_option, quiet_option
from safesail.cli.output import print_json, print_table


@click.command()
@json_option()
def models(as_json: bool) -> None:
    """List subject models: aliases, where they come from, and what is here already.

    \b
    Example:
        safesail models --json
    """
    from safesail.resources import cache_dir
    from safesail.subject.aliases import load_aliases
    from safesail.subject.fetch import local_dir

    cache = cache_dir()
    rows = [
        {
            "alias": alias.name,
            "hub id": alias.hub_id,
            "layers": alias.n_layers,
            "d_model": alias.d_model,
            "hook": alias.hook,
            "SAE releases": len(alias.releases),
            "here": local_dir(alias.name, cache) is not None,
        }
        for alias in load_aliases().values()
    ]
    print_json(rows) if as_json else print_table(rows)


@click.command()
@click.argument("model")
@quiet_option()
def fetch(model: str, quiet: bool) -> None:
    """Bring MODEL (an alias, a directory or a hub id) to this machine and print where it is.

    \b
    Example:
        safesail fetch smollm2
    """
    from safesail.resources import cache_dir
    from safesail.subject.fetch import fetch as fetch_model

    click.echo(fetch_model(model, cache=cache_dir(), quiet=quiet))

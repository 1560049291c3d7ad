"""`safesail concepts`."""

import click

from safesail.cli.options import json_option
from safesail.cli.output import plain, print_json, print_table


@click.group()
def concepts() -> None:
    """Check sets of contrastive concept pairs."""


@concepts.command()
@click.argument("sources", nargs=-1, required=True)
@json_option()
def check(sources: tuple[str, ...], as_json: bool) -> None:
    r"""Hold concept pairs (YAML, CSV, JSONL, or a folder of them) to the rules of a contrastive pair.

    \b
    Example:
        safesail concepts check data/concepts
    """
    from safesail.resources import expand
    from safesail.selection.check import check_concepts, count_pairs
    from safesail.selection.concepts import read_concepts

    found = read_concepts([expand(source) for source in sources])
    faults = check_concepts(found)
    counts = count_pairs(found)
    if as_json:
        print_json({"faults": faults, "counts": counts})
    else:
        print_table([plain(row) for row in counts])
        for fault in faults:
            click.echo(str(fault))
        click.echo(f"{len(found)} concepts, {len(faults)} faults")
    if any(fault.severity == "error" for fault in faults):
        raise click.exceptions.Exit(1)

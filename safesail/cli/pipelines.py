"""`safesail run`."""

from pathlib import Path

import click

from safesail.cli.options import json_option, quiet_option
from safesail.cli.output import print_json


@click.command()
@click.argument("pipeline")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for store, release and summary; default: runs/NAME.",
)
@json_option()
@quiet_option()
def run(pipeline: str, out: Path | None, as_json: bool, quiet: bool) -> None:
    """Run a whole pipeline: select, harvest, explain, score, release.

    PIPELINE is a YAML file, or the name of one that comes with Safe-SAIL, such as `demo`. What is done
    already is not done again, and a killed run goes on where it stopped.

    \b
    Example:
        safesail run demo
    """
    from safesail.pipeline.run import find_pipeline, run_pipeline

    summary = run_pipeline(find_pipeline(pipeline), out=out, quiet=quiet)
    print_json(summary.as_json()) if as_json else click.echo(summary.as_text())
    if summary.features_failed:
        raise click.exceptions.Exit(3)

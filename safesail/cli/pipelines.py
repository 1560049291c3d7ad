"""`safesail run`."""

from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import click

from safesail.cli.options import json_option, quiet_option
from safesail.cli.output import print_json, print_table
from safesail.errors import ConfigError

if TYPE_CHECKING:
    from safesail.pipeline.plan.costs import Speed
    from safesail.pipeline.plan.result import RunPlan


@click.command()
@click.argument("pipeline")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for store, release and summary; default: runs/NAME.",
)
@click.option("--plan", is_flag=True, help="Say what it would take, and load nothing.")
@click.option(
    "--measure", is_flag=True, help="With --plan: load the model and measure on a tenth of the work."
)
@click.option(
    "--tflops", metavar="MODEL[,SAE]", help="With --plan: the machine's speed, in 10^12 operations a second."
)
@click.option(
    "--call-seconds",
    type=click.FloatRange(0, min_open=True),
    help="With --plan: what the endpoint takes per call.",
)
@json_option()
@quiet_option()
def run(
    pipeline: str,
    out: Path | None,
    plan: bool,
    measure: bool,
    tflops: str | None,
    call_seconds: float | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run a whole pipeline: select, harvest, explain, score, release.

    PIPELINE is a YAML file, or the name of one that comes with Safe-SAIL, such as `demo`. What is done
    already is not done again, and a killed run goes on where it stopped. --plan says beforehand what it
    takes: downloads, disk, memory, time, tokens and dollars; unknown figures are marked `?`, with their reason.

    \b
    Examples:
        safesail run demo
        safesail run demo --plan --measure
        safesail run llama --plan --tflops 125,11.7
    """
    from safesail.pipeline.config import find_pipeline

    if plan:
        from safesail.pipeline.plan.make import plan_pipeline

        speed = None if tflops is None else _speed(tflops)
        planned = plan_pipeline(
            find_pipeline(pipeline), out=out, speed=speed, call_seconds=call_seconds, measured=measure
        )
        print_json(planned.as_json()) if as_json else _print_plan(planned)
        return
    if measure or tflops is not None or call_seconds is not None:
        raise click.UsageError("--measure, --tflops and --call-seconds go with --plan")
    from safesail.pipeline.run import run_pipeline

    summary = run_pipeline(find_pipeline(pipeline), out=out, quiet=quiet)
    print_json(summary.as_json()) if as_json else click.echo(summary.as_text())
    if summary.features_failed:
        raise click.exceptions.Exit(3)


def _speed(text: str) -> "Speed":
    """What `--tflops` says: of the model, and of the SAEs where theirs differs."""
    from safesail.pipeline.plan.costs import stated_speed

    try:
        model, sae = (float(part) for part in (text if "," in text else f"{text},{text}").split(","))
    except ValueError:
        model = sae = 0.0
    if not (0 < model < float("inf") and 0 < sae < float("inf")):
        raise ConfigError(f"--tflops {text!r} is not understood; write one number, or two as 125,11.7")
    return stated_speed(model * 1e12, sae * 1e12)


def _print_plan(plan: "RunPlan") -> None:
    print_table(plan.table())
    click.echo()
    for line in plan.notes():
        click.echo(line)
    click.echo("\nwhat the figures rest on:")
    for line in plan.assumptions():
        click.echo(fill(line, 100, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False))

"""`safesail harvest`."""

from pathlib import Path

import click

from safesail.cli.options import Count, device_options, json_option, model_option, quiet_option, store_option
from safesail.cli.output import plain, print_json, print_table


@click.command()
@model_option()
@click.option(
    "--sae",
    "saes",
    multiple=True,
    required=True,
    help="SAE: folder, checkpoint, or release/id; several may be given.",
)
@click.option(
    "--text", multiple=True, required=True, help="Files, folders, hf:NAME[:split], or - for standard input."
)
@click.option("--column", help="Column that holds the text; default: found by its name.")
@click.option("--tokens", type=Count(), help="Stop after so many tokens, e.g. 500k.")
@click.option("--n-ctx", type=click.IntRange(4), default=64, show_default=True, help="Tokens a window holds.")
@click.option(
    "--features",
    type=click.Choice(["all", "candidates"]),
    default="all",
    show_default=True,
    help="Whose nonzeros are kept.",
)
@click.option("--replace", is_flag=True, help="Drop what the store holds of these SAEs from another harvest.")
@click.option("--seed", type=int, default=0, show_default=True)
@device_options
@store_option()
@json_option()
@quiet_option()
def harvest(
    model: str,
    saes: tuple[str, ...],
    text: tuple[str, ...],
    column: str | None,
    tokens: int | None,
    n_ctx: int,
    features: str,
    replace: bool,
    seed: int,
    device: str,
    dtype: str,
    threads: int | None,
    store: Path,
    as_json: bool,
    quiet: bool,
) -> None:
    r"""Run the subject model over text and store the SAEs' nonzero activations.

    \b
    Example:
        safesail harvest --sae data/saes/smollm2-l14-mlp-k32 --text texts/ --tokens 500k
    """
    from safesail.harvest.config import HarvestConfig
    from safesail.pipeline.tools import Machine, run_harvest

    config = HarvestConfig.read(
        {"n_tokens": tokens, "n_ctx": n_ctx, "column": column, "features": features, "seed": seed},
        "command line",
    )
    machine = Machine(model=model, device=device, dtype=dtype, threads=threads)
    report = run_harvest(store, machine, (saes, text), config, replace=replace, quiet=quiet)
    print_json(report) if as_json else print_table([plain(report)])

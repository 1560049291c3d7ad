"""`safesail select-sae`."""

from pathlib import Path

import click

from safesail.cli.options import device_options, json_option, model_option, quiet_option, store_option
from safesail.cli.output import print_json, print_table


@click.command("select-sae")
@model_option()
@click.option(
    "--sae", "saes", multiple=True, help="Candidates: folders (patterns allowed), checkpoints, release/id."
)
@click.option(
    "--concepts", multiple=True, help="Files or folders of concept pairs; default: those that come along."
)
@click.option(
    "--domain", "domains", multiple=True, help="Only concepts of this domain; several may be given."
)
@click.option("--config", type=click.Path(path_type=Path), help="YAML with the settings of the metric.")
@click.option(
    "--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw the figure to this PNG or SVG."
)
@click.option(
    "--plan", is_flag=True, help="Only list what would be scored, from where, how large; no network."
)
@device_options
@store_option()
@json_option()
@quiet_option()
def select_sae(
    model: str,
    saes: tuple[str, ...],
    concepts: tuple[str, ...],
    domains: tuple[str, ...],
    config: Path | None,
    plot: Path | None,
    plan: bool,
    device: str,
    dtype: str,
    threads: int | None,
    store: Path,
    as_json: bool,
    quiet: bool,
) -> None:
    """Rank SAEs by how well single features isolate concepts, at zero LLM tokens.

    \b
    Examples:
        safesail select-sae --model smollm2
        safesail select-sae --model llama --plan
    """
    if plan:
        from safesail.selection.loading import plan_rows

        rows = plan_rows(model, saes)
        print_json(rows) if as_json else print_table(rows)
        return
    from safesail.sae.folders import check_saes

    if saes:
        check_saes(saes, model)  # before torch is imported, which takes seconds
    from safesail.concepts.read import load_concepts
    from safesail.selection.config import SelectionConfig
    from safesail.selection.loading import run_selection
    from safesail.subject.loading import ModelConfig

    settings = SelectionConfig.from_yaml(config) if config else SelectionConfig()
    where = ModelConfig(model=model, device=device, dtype=dtype, threads=threads)
    chosen = load_concepts(concepts, domains)
    result = run_selection(store, where, saes, chosen, settings, quiet=quiet)
    if plot is not None:
        from safesail.selection.plot import plot as draw

        draw(result, plot)
    if as_json:
        print_json(
            {
                "ranking": result.table(),
                "domains": result.domain_table(),
                "tokens": result.n_tokens,
                "llm_tokens": 0,
            }
        )
        return
    print_table(result.table())
    click.echo(f"best: {result.best}; the model saw {result.n_tokens:,} tokens, no LLM was asked")

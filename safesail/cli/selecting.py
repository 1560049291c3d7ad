"""`safesail select-sae`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from safesail.cli.options import device_options, json_option, model_option, quiet_option, store_option
from safesail.cli.output import print_json, print_table

if TYPE_CHECKING:
    from safesail.selection.result import SelectionResult


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
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the ranking to this PNG, SVG or PDF.",
)
@click.option("--all", "every", is_flag=True, help="Show every figure, those against chance too.")
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
    every: bool,
    plan: bool,
    device: str,
    dtype: str,
    threads: int | None,
    store: Path,
    as_json: bool,
    quiet: bool,
) -> None:
    """Rank SAEs by how well a few features detect concepts, at zero LLM tokens.

    \b
    Examples:
        safesail select-sae --model smollm2
        safesail select-sae --model llama --plan
    """
    from safesail.concepts.read import load_concepts
    from safesail.files import check_plot
    from safesail.sae.folders import check_saes
    from safesail.selection.config import SelectionConfig
    from safesail.selection.plan import candidates_of
    from safesail.selection.plan import plan as plan_rows

    if plan:
        rows = [row._asdict() for row in plan_rows(model, saes)]
        print_json(rows) if as_json else print_table(rows)
        return
    if plot is not None:
        check_plot(plot)
    settings = SelectionConfig.from_yaml(config) if config else SelectionConfig()
    chosen = load_concepts(concepts, domains)
    names = candidates_of(model, saes)
    check_saes(names, model)  # before torch is imported, which takes seconds

    from safesail.sae.load import load_with_saes
    from safesail.selection.plot import draw
    from safesail.selection.run import run_selection
    from safesail.store.connection import open_writer
    from safesail.subject.loading import ModelConfig

    subject, candidates = load_with_saes(ModelConfig(model, device, dtype, threads), names, quiet=quiet)
    with open_writer(store) as db:
        result = run_selection(db, subject, candidates, chosen, settings, quiet=quiet)
    if plot is not None:
        draw(result, plot)
    print_json(_as_json(result)) if as_json else _print(result, every=every)


def _as_json(result: "SelectionResult") -> dict[str, Any]:
    return {
        "ranking": result.table(),
        "domains": result.domain_table(),
        "figures": result.figures(),
        "readouts": result.readouts,
        "tokens": result.n_tokens,
        "llm_tokens": 0,
    }


_BEHIND_ALL = ("i_cdf", "i_cdf_above_null", "l0_t0.5", "l0_t0.5_above_null")
"""Figures beside the one that SAEs are ranked by, which few readers ask for."""


def _print(result: "SelectionResult", *, every: bool) -> None:
    print_table(
        [{name: row[name] for name in row if every or name not in _BEHIND_ALL} for row in result.table()]
    )
    click.echo(f"best: {result.best}; the model saw {result.n_tokens:,} tokens, no LLM was asked")
    click.echo("\nits readouts: the features that together detect a concept, the best single one first")
    print_table(result.readout_table())
    click.echo("\nmore of one: safesail catalog features --concept NAME (after harvest)")

"""`safesail explain`, `score`, `ledger` and `cache`."""

from pathlib import Path

import click

from safesail.cli.options import json_option, quiet_option, store_option
from safesail.cli.output import print_json, print_table


@click.command()
@click.option("--budget", required=True, help="Hard cap on what this run newly spends: 10k, 2M, $5, 200calls, unlimited.")
@click.option("--sae", "sae_id", help="SAE of the store; default: the best that a selection found.")
@click.option("--explainer", default="lexical", show_default=True, help="lexical, or a model's name at the endpoint.")
@click.option("--simulator", help="Model that simulates; default: the explainer.")
@click.option("--base-url", help="OpenAI-compatible endpoint; default: OPENAI_BASE_URL.")
@click.option("--scoring", "method", type=click.Choice(["segment", "token", "detection", "fuzzing"]), default="segment", show_default=True)
@click.option("--features", "max_features", type=click.IntRange(1), default=100, show_default=True, help="Candidates at most.")
@click.option("--chance-every", type=click.IntRange(0), default=4, show_default=True, help="Chance line on every n-th feature; 0: none.")
@click.option("--concurrency", type=click.IntRange(1), default=8, show_default=True)
@click.option("--prices", type=click.Path(path_type=Path), help="YAML of prices per model, for budgets in $.")
@click.option("--replay", is_flag=True, help="Answers from the cache only; a new call is an error.")
@click.option("--dry-run", is_flag=True, help="Forecast cost and yield; ask nothing.")
@store_option()
@json_option()
@quiet_option()
def explain(
    budget: str,
    sae_id: str | None,
    explainer: str,
    simulator: str | None,
    base_url: str | None,
    method: str,
    max_features: int,
    chance_every: int,
    concurrency: int,
    prices: Path | None,
    replay: bool,
    dry_run: bool,
    store: Path,
    as_json: bool,
    quiet: bool,
) -> None:
    r"""Explain the candidate features of an SAE and score the explanations, within a budget.

    \b
    Example:
        safesail explain --budget 10k
    """

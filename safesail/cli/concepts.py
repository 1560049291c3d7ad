"""`safesail concepts`."""

from pathlib import Path
from typing import Any

import click

from safesail.cli.options import json_option, quiet_option, store_option
from safesail.cli.output import print_json, print_table


@click.group()
def concepts() -> None:
    """Check sets of contrastive concept pairs, and have new ones written."""


@concepts.command()
@click.argument("sources", nargs=-1, required=True)
@json_option()
def check(sources: tuple[str, ...], as_json: bool) -> None:
    """Hold concept pairs (YAML, CSV, JSONL, or a folder of them) to the rules of a contrastive pair.

    \b
    Example:
        safesail concepts check data/concepts
    """
    from safesail.concepts.check import check_concepts, count_pairs
    from safesail.concepts.read import read_concepts
    from safesail.resources import expand

    concept_set = read_concepts([expand(source) for source in sources])
    faults, counts = check_concepts(concept_set), count_pairs(concept_set)
    if as_json:
        print_json({"faults": faults, "counts": counts})
    else:
        print_table(counts)
        for fault in faults:
            click.echo(str(fault))
        click.echo(f"{len(concept_set)} concepts, {len(faults)} faults")
    if any(fault.severity == "error" for fault in faults):
        raise click.exceptions.Exit(1)


@concepts.command()
@click.argument("name")
@click.option("--definition", required=True, help="What the concept is, in one sentence.")
@click.option("--n", type=click.IntRange(2), default=20, show_default=True, help="Pairs wanted.")
@click.option("--budget", required=True, help="Hard cap on what is newly spent: 5k, $1, 20calls, unlimited.")
@click.option("--model", help="Chat model's name at the endpoint; the built-in one cannot write.")
@click.option("--base-url", help="OpenAI-compatible endpoint; default: OPENAI_BASE_URL.")
@click.option("--lang", type=click.Choice(["en", "zh"]), default="en", show_default=True, help="Language.")
@click.option("--domain", help="Default: NAME up to its first dot, else own.")
@click.option("--keyword", "keywords", multiple=True, help="May stand in no q-; more come from the model.")
@click.option("--licence", help="Licence of the texts, for the file.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Concept file; default: stdout.")
@click.option("--config", type=click.Path(path_type=Path), help="YAML: how the model is asked.")
@click.option("--prices", type=click.Path(path_type=Path), help="YAML of prices per model, for budgets in $.")
@click.option("--replay", is_flag=True, help="Answers from the cache only; a new call is an error.")
@store_option()
@json_option()
@quiet_option()
def generate(
    out: Path | None, config: Path | None, store: Path, as_json: bool, quiet: bool, **options: Any
) -> None:
    """Have a chat model write contrast pairs for the concept NAME (`domain.name`), each checked before it is kept.

    Ends with code 3 where fewer than --n could be kept. The same command again asks nothing anew.

    \b
    Example:
        safesail concepts generate fraud.romance_scam --definition "A false lover asks for money." \\
            --budget 5k --model qwen3:8b --base-url http://localhost:11434/v1 --out romance.yaml
    """
    from safesail.concepts.config import GenerateConfig
    from safesail.concepts.generate import GenerateOptions, generate_concept
    from safesail.files import whole_file

    if out is not None and out.exists():
        raise click.UsageError(f"{out} is there already; name another --out")
    settings = GenerateConfig.from_yaml(config) if config else GenerateConfig()
    result = generate_concept(store, GenerateOptions(**options), settings, quiet=quiet)
    if out is not None:
        with whole_file(out) as partial:
            partial.write_text(result.as_yaml(), encoding="utf-8")
    if as_json:
        print_json(result.as_json())
    elif out is None:
        click.echo(result.as_yaml(), nl=False)
        click.echo(result.as_text(), err=True)
    else:
        click.echo(result.as_text())
    if not result.draft.complete:
        raise click.exceptions.Exit(3)

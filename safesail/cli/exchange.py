"""`safesail catalog export`, `tag`, `diff` and `coverage`."""

from pathlib import Path
from typing import cast

import click

from safesail.cli.catalog import catalog
from safesail.cli.options import json_option, source_option, store_option
from safesail.cli.output import plain, print_json, print_table


@catalog.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--format", "form", type=click.Choice(["safe-sail", "neuronpedia", "csv", "jsonl"]), required=True
)
@click.option("--origin", help="Only what came from the catalog of this name.")
@click.option("--lang", default="en", show_default=True, help="Only explanations in this language.")
@source_option()
@json_option()
def export(out: Path, form: str, origin: str | None, lang: str, store: Path, as_json: bool) -> None:
    """Write the explanations in another tool's format to OUT: a file, or for neuronpedia a folder.

    \b
    Example:
        safesail catalog export demo.csv --format csv
    """
    from safesail.catalog.exporting import ExportFormat, export_catalog

    report = export_catalog(store, out, cast("ExportFormat", form), origin=origin, lang=lang)
    if as_json:
        print_json(report)
        return
    kind = "the folder " if report.out.is_dir() else ""
    click.echo(f"{report.explanations:,} explanations written to {kind}{report.out}")
    for reason, n in report.left_out.items():
        click.echo(f"left out: {n} ({reason})")


@catalog.command()
@click.argument("feature")
@click.argument("name")
@click.option("--severity", type=click.IntRange(1, 3), help="1 mild to 3 severe.")
@click.option("--remove", is_flag=True, help="Say that the feature does not have the tag.")
@click.option("--clear", is_flag=True, help="Take back what a person said of this tag.")
@store_option()
def tag(feature: str, name: str, severity: int | None, remove: bool, clear: bool, store: Path) -> None:
    """Correct a FEATURE's tag NAME by hand; later runs keep it.

    \b
    Example:
        safesail catalog tag smollm2-l14-mlp-k16#42 weapons --severity 2
    """
    from safesail.catalog.tag import clear_tag, reject_tag, set_tag
    from safesail.domain.ids import parse_feature

    if remove and clear:
        raise click.UsageError("--remove and --clear exclude each other")
    target = parse_feature(feature)
    if clear:
        cleared = clear_tag(store, target, name)
        click.echo(f"{target}: {name} " + ("cleared" if cleared else "had nothing to clear"))
    elif remove:
        reject_tag(store, target, name)
        click.echo(f"{target}: not {name}")
    else:
        set_tag(store, target, name, severity=severity)
        click.echo(f"{target}: {name}")


@catalog.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@json_option()
def diff(a: Path, b: Path, as_json: bool) -> None:
    """Say what changed from catalog A to catalog B (stores or releases).

    \b
    Example:
        safesail catalog diff releases/demo safesail.duckdb
    """
    from safesail.catalog.diff import diff as compare

    differences = compare(a, b)
    if as_json:
        print_json(differences)
        return
    counts = {
        name: len(getattr(differences, name))
        for name in ("added", "lost", "reexplained", "retagged", "moved", "unsure", "effects")
    }
    print_table([{**counts, "same": differences.same}])
    for moved in differences.moved:
        click.echo(f"{moved.feature}: score {moved.before:.3f} -> {moved.after:.3f}")


@catalog.command()
@click.option("--text", "source", help="Texts that were harvested, to look for those that nothing covers.")
@click.option("--min-score", type=float, help="Explanations with a lower score do not cover a text.")
@source_option()
@json_option()
def coverage(source: str | None, min_score: float | None, store: Path, as_json: bool) -> None:
    """Say which concepts, and which texts, no explained feature covers.

    \b
    Example:
        safesail catalog coverage --min-score 0.3
    """
    from safesail.catalog.coverage import coverage as measure
    from safesail.resources import expand
    from safesail.text.documents import read_documents

    texts = [d.text for d in read_documents([expand(source)])] if source else []
    coverage = measure(store, texts, min_score=min_score)
    if as_json:
        print_json({"concepts": coverage.concepts, "texts": coverage.texts})
        return
    print_table(
        [
            {"domain": domain, "layer": layer, "blind spots": blind, "concepts": n}
            for (domain, layer), (blind, n) in sorted(coverage.blind_spots().items(), key=str)
        ]
    )
    blind = [plain(concept) for concept in coverage.concepts if concept.explained == 0]
    print_table(blind) if blind else click.echo("every concept has an explained feature")
    if texts:
        click.echo(f"{len(coverage.uncovered())} of {len(texts)} texts uncovered")

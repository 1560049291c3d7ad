"""`safesail catalog`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from safesail.cli.options import json_option, quiet_option, source_option, store_option
from safesail.cli.output import plain, print_json, print_json_rows, print_styled, print_table

if TYPE_CHECKING:
    from safesail.catalog.search import By


@click.group()
def catalog() -> None:
    """Query, search, show, release and import explained features.

    Commands that read take a release (folder or zip) as --store too.
    """


@catalog.command()
@click.argument("sql")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, all rows.")
@click.option(
    "--parquet", type=click.Path(path_type=Path, dir_okay=False), help="Write Parquet to this file, all rows."
)
@click.option(
    "--limit", type=click.IntRange(1), default=100, show_default=True, help="Rows of the table on screen."
)
@click.option("--timeout", type=float, default=30.0, show_default=True, help="Seconds.")
@click.option("--memory", default="1GB", show_default=True, help="Most memory the query may use.")
@source_option()
@json_option()
def query(
    sql: str,
    as_csv: bool,
    parquet: Path | None,
    limit: int,
    timeout: float,
    memory: str,
    store: Path,
    as_json: bool,
) -> None:
    """Ask the store in SQL: read-only, with no file, network or setting in reach.

    \b
    Example:
        safesail catalog query 'SELECT "index", score, explanation FROM catalog ORDER BY score DESC LIMIT 5'
    """
    from safesail.catalog.query import run_query

    with run_query(store, sql, timeout=timeout, memory=memory) as result:
        if parquet is not None:
            click.echo(f"{result.write_parquet(parquet):,} rows written to {parquet}")
        elif as_csv:
            result.write_csv(sys.stdout)
        elif as_json:
            print_json_rows(result.records())
        else:
            records, n_more = result.head(limit)
            print_table(records)
            if n_more:
                click.echo(
                    f"and {n_more:,} more rows; --limit shows more, --csv, --json and --parquet have all"
                )


@catalog.command()
@click.argument("text")
@click.option("--domain", help="Only features tagged with this domain, or one of its leaves.")
@click.option("--min-score", type=float, help="Only features with at least this score.")
@click.option("--limit", type=click.IntRange(1), default=10, show_default=True)
@click.option(
    "--by",
    type=click.Choice(["words", "meaning", "both"]),
    help="Default: both where the extra `embedding` is installed, else words.",
)
@source_option()
@json_option()
@quiet_option()
def search(
    text: str,
    domain: str | None,
    min_score: float | None,
    limit: int,
    by: "By | None",
    store: Path,
    as_json: bool,
    quiet: bool,
) -> None:
    """Find features whose explanations match TEXT, by their words and by their meaning.

    \b
    Example:
        safesail catalog search "people smuggling" --domain violence --min-score 0.3
    """
    from safesail.catalog.embedder import open_index
    from safesail.catalog.source import open_source
    from safesail.catalog.words import parse_terms

    parse_terms(text)  # refused before anything is opened or made
    with open_source(store) as db:
        index, note = open_index(db, by, quiet=quiet)
        hits = index.search(text, domain=domain, min_score=min_score, limit=limit)
    if note is not None:
        click.echo(note, err=True)
    if as_json:
        print_json(hits)
        return
    print_table([plain(hit) for hit in hits.hits])
    click.echo(f"found {hits.method}")


@catalog.command()
@click.argument("feature")
@click.option(
    "--windows", type=click.IntRange(0), default=5, show_default=True, help="Windows shown at most."
)
@source_option()
@json_option()
def show(feature: str, windows: int, store: Path, as_json: bool) -> None:
    """Print all that is known of one FEATURE (SAE#INDEX), with its windows.

    \b
    Example:
        safesail catalog show smollm2-l14-mlp-k16#42
    """
    from safesail.catalog.show import render_feature, show_feature
    from safesail.catalog.source import open_source
    from safesail.domain.ids import parse_feature

    with open_source(store) as db:
        shown = show_feature(db, parse_feature(feature), n_windows=windows)
    if as_json:
        print_json(shown)
        return
    full = bool(click.get_current_context().meta.get("full"))
    print_styled(render_feature(shown, marks=not sys.stdout.isatty(), full=full))


@catalog.command()
@click.option("--concept", help="A concept: its id, a part of it, or its name.")
@click.option("--domain", help="Concepts and tags of this domain.")
@click.option("--text", help="Only features whose explanation holds this.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
@source_option()
@json_option()
def features(
    concept: str | None, domain: str | None, text: str | None, limit: int, store: Path, as_json: bool
) -> None:
    """List the features of a concept or domain, those first that tell it apart best.

    By the mean of two AUCs, on the concept's pairs and against texts of other domains. "readout" is a feature's rank
    among those that together detect the concept; a release knows neither, and goes by lift.

    \b
    Example:
        safesail catalog features --concept violence.insult.personal_insult
    """
    from safesail.catalog.features import concept_features
    from safesail.catalog.source import open_source

    if concept is None and domain is None and text is None:
        raise click.UsageError("name a --concept, a --domain or a --text")
    with open_source(store) as db:
        listed = concept_features(db, concept=concept, domain=domain, text=text, limit=limit)
    if as_json:
        print_json(listed)
        return
    print_table([
        {"feature": f"{f.sae_id}#{f.index}", "readout": f.readout_rank, "lift": f.lift, "AUC, pairs": f.auc_pairs,
         "AUC, others": f.auc_wide, "score": f.score, "explanation": f.explanation, "concept": f.concept_id,
         "top text": f.top_texts[0] if f.top_texts else None} for f in listed
    ])  # fmt: skip


@catalog.command()
@click.option(
    "--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw the scores to this PNG or SVG."
)
@source_option()
@json_option()
def stats(plot: Path | None, store: Path, as_json: bool) -> None:
    """Count features and scores by SAE, layer and domain.

    \b
    Example:
        safesail catalog stats --plot scores.png
    """
    from safesail.catalog.source import open_source
    from safesail.catalog.stats import plot_stats
    from safesail.catalog.stats import stats as read_stats
    from safesail.files import check_plot

    if plot is not None:
        check_plot(plot)
    with open_source(store) as db:
        stats = read_stats(db)
        if plot is not None:
            plot_stats(db, plot)
    if as_json:
        print_json(stats)
        return
    groups: tuple[tuple[str, dict[Any, Any]], ...] = (
        ("SAE", stats.saes), ("layer", stats.layers), ("domain", stats.domains)
    )  # fmt: skip
    first = ("features", "explained", "scored", "mean", "chance")
    for title, figures in groups:
        print_table([
            {title: str(name), **{cell: row[cell] for cell in first}, **row}
            for name, row in ((name, plain(value)) for name, value in figures.items())
        ])  # fmt: skip
        click.echo()


@catalog.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Letters, digits, dot, dash and underscore.")
@click.option("--version", "release_version", default="1", show_default=True)
@click.option(
    "--licence", default="other", show_default=True, help="SPDX name, of explanations and exemplars."
)
@click.option("--redact", multiple=True, help="Mask explanations and texts of this domain; scores stay.")
@click.option("--min-score", type=float, help="Leave out features with a lower score, or none.")
@click.option(
    "--exemplars", type=click.IntRange(0, 100), default=5, show_default=True, help="Windows a feature."
)
@click.option(
    "--with-saes",
    "saes",
    multiple=True,
    help="SAEs that come along: folders (patterns allowed) or bundled:data/saes.",
)
@click.option("--sae-licence", help="SPDX name, of SAEs whose card states none.")
@click.option("--push", "target", help="hf:ORG/NAME: say what would be sent there; with --yes send it.")
@click.option("--yes", is_flag=True, help="Do what --push says.")
@click.option("--public", is_flag=True, help="Everybody may see what is pushed; else only its owners.")
@store_option()
@json_option()
@quiet_option()
def release(
    out: Path,
    name: str,
    release_version: str,
    licence: str,
    redact: tuple[str, ...],
    min_score: float | None,
    exemplars: int,
    saes: tuple[str, ...],
    sae_licence: str | None,
    target: str | None,
    yes: bool,
    public: bool,
    store: Path,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write the catalog to OUT (a folder, or a .zip): same store, same bytes.

    \b
    Examples:
        safesail catalog release demo.zip --name demo --redact pornography
        safesail catalog release demo --name demo --with-saes bundled:data/saes --sae-licence MIT --push hf:me/demo
    """
    from safesail.catalog.config import ReleaseOptions
    from safesail.catalog.format import release_digest
    from safesail.catalog.release import build_release

    if (yes or public) and target is None:
        raise click.UsageError("--yes and --public belong to --push")
    options = ReleaseOptions.read(
        {
            "name": name, "version": release_version, "licence": licence, "redact": redact,
            "min_score": min_score, "exemplars": exemplars, "saes": saes, "sae_licence": sae_licence,
        },
        "command line",
    )  # fmt: skip
    manifest = build_release(store, out, options, quiet=quiet)
    counts = plain(manifest.counts.model_dump())
    pushed = None if target is None else _push(out, target, yes=yes, public=public, quiet=quiet)
    if as_json:
        summary = {
            "release": str(out),
            "sha256": release_digest(manifest),
            **counts,
            "SAEs": len(manifest.weights),
        }
        print_json(summary if pushed is None else {**summary, "push": pushed})
        return
    first = ("features", "explained", "scored", "mean_score", "mean_chance")
    summary = {name: counts[name] for name in first} | counts
    print_table([{"release": str(out), **summary, "sha256": release_digest(manifest)}])
    if pushed is not None:
        print_table(pushed.pop("files"))
        print_table([pushed])


def _push(folder: Path, target: str, *, yes: bool, public: bool, quiet: bool) -> dict[str, Any]:
    """Push the release, or only say what that would send."""
    from safesail.catalog.publish import plan_push, push

    plan = plan_push(folder, target, public=public)
    done = push(plan, folder, quiet=quiet) if yes else None
    if not yes:
        click.echo(f"nothing was sent; the same with --yes pushes it to hf:{plan.repo}", err=True)
    return {
        "to": f"hf:{plan.repo}", "visible to": "its owners" if plan.private else "everybody",
        "bytes": plan.n_bytes, "licences": plan.licences, "commit": done,
        "files": [{"file": name, "bytes": size} for name, size in plan.files],
    }  # fmt: skip


@catalog.command()
@click.argument("path", type=click.Path(path_type=Path))
@json_option()
def verify(path: Path, as_json: bool) -> None:
    """Check every file, sum, row and value of the release at PATH.

    \b
    Example:
        safesail catalog verify releases/demo
    """
    from safesail.catalog.format import release_digest
    from safesail.catalog.verify import verify_release

    manifest = verify_release(path)
    summary = {
        "release": f"{manifest.name} {manifest.version}", "files": len(manifest.files),
        "features": manifest.counts.features, "explained": manifest.counts.explained,
        "scored": manifest.counts.scored, "sha256": release_digest(manifest),
    }  # fmt: skip
    print_json(summary) if as_json else print_table([summary])


@catalog.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Name under which the explanations are kept apart.")
@click.option(
    "--format", "form", help="Found out where it is not named: release, safe-sail, neuronpedia, ..."
)
@click.option("--model", help="Subject model, where the catalog does not say.")
@click.option("--sae", help="SAE, where the catalog does not say.")
@click.option("--hook", help="Hook point, where the catalog does not say.")
@click.option("--d-sae", type=click.IntRange(1), help="Features of the SAE, where the catalog does not say.")
@store_option()
@json_option()
def import_(
    source: Path,
    name: str,
    form: str | None,
    model: str | None,
    sae: str | None,
    hook: str | None,
    d_sae: int | None,
    store: Path,
    as_json: bool,
) -> None:
    """Bring in what others released; a second time changes nothing.

    \b
    Example:
        safesail catalog import neurons.json --name safe-sail --model qwen --d-sae 20480
    """
    from safesail.catalog.config import ImportOptions
    from safesail.catalog.importing import FORMATS, import_catalog

    if form is not None and form not in FORMATS:
        raise click.BadParameter(f"{form!r} is not one of {', '.join(FORMATS)}", param_hint="--format")
    options = ImportOptions.read(
        {"name": name, "model": model, "sae": sae, "hook": hook, "d_sae": d_sae}, "command line"
    )
    report = import_catalog(store, source, options, form=form)
    if as_json:
        print_json(report)
        return
    print_table([{"table": t, "rows": n, "new": report.new.get(t, 0)} for t, n in report.rows.items()])
    for fault in report.faults:
        click.echo(f"fault: {fault.kind}, {fault.n} times")

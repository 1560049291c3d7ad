"""`safesail catalog sources`, `download`, `join` and `audit`: what others released."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from safesail.cli.exchange import catalog
from safesail.cli.options import json_option, quiet_option, source_option, store_option
from safesail.cli.output import plain, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safesail.catalog.acquire import Acquired
    from safesail.catalog.identity import Identity

PARTIAL = 3
"""Exit code of a download of which something could not be had."""


@catalog.command()
@click.option(
    "--model", "-m", help="One by one those of this subject model: alias, hub id or their own name."
)
@click.option("--for", "sae", help="Those that describe this SAE: release/id, a folder, or a Neuronpedia id.")
@click.option(
    "--store", type=click.Path(path_type=Path, dir_okay=False), envvar="SAFESAIL_STORE",
    help="With --for a folder: a store that may know its weights by another name.",
)  # fmt: skip
@json_option()
def sources(model: str | None, sae: str | None, store: Path | None, as_json: bool) -> None:
    """List public catalogs that `safesail catalog download` can get.

    \b
    Examples:
        safesail catalog sources --model gemma
        safesail catalog sources --for gemma-scope-2b-pt-res-canonical/layer_20/width_16k/canonical
    """
    from safesail.catalog.matching import describe
    from safesail.catalog.sources import count_sources, list_sources

    if sae is not None:
        listed: Sequence[Any] = describe(sae, store)
        if not listed and not as_json:
            click.echo(f"no public catalog that is known describes {sae}")
            return
    elif model is not None:
        listed = list_sources(model)
    else:
        listed = count_sources(list_sources())
    print_json(listed) if as_json else print_table([plain(row) for row in listed])


@catalog.command()
@click.argument("source")
@click.option("--into", type=click.Path(path_type=Path, dir_okay=False), help="Import it into this store.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Keep the files here; default: the user's cache."
)
@click.option("--with", "kinds", help="Of Neuronpedia, besides explanations: features,activations.")
@click.option("--name", help="Name under which the explanations are kept apart; default: the source.")
@click.option("--sae", help="Name of the SAE in the store, where the catalog has only its own.")
@click.option("--d-sae", type=click.IntRange(1), help="Features of the SAE, where nothing says it.")
@click.option("--address", help="A mirror, in the place of the public address.")
@json_option()
@quiet_option()
def download(
    source: str,
    into: Path | None,
    out: Path | None,
    kinds: str | None,
    name: str | None,
    sae: str | None,
    d_sae: int | None,
    address: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Get explanations that others released, check them, and bring them into a store.

    SOURCE is one that `safesail catalog sources` lists, hf:ORG/NAME[@REVISION], an https address, or a path. A second
    time only what has changed is fetched. Ends with 3 where a part could not be had: it is named, the rest is kept.

    \b
    Examples:
        safesail catalog download neuronpedia:gemma-2-2b/20-gemmascope-res-16k --with features --into all.duckdb
        safesail catalog download safe-sail:qwen2.5-3b --into all.duckdb
        safesail catalog download https://example.org/demo.zip --out releases/demo
    """
    from safesail.catalog.acquire import Order, acquire

    if into is None and out is None:
        raise click.UsageError("name a store with --into, or a folder with --out")
    wanted = tuple(kind.strip() for kind in (kinds or "").split(",") if kind.strip())
    options = {"name": name, "sae": sae, "d_sae": d_sae}
    came = acquire(Order(source, into, out, wanted, address, options), quiet=quiet)
    print_json(came) if as_json else _tell(came)
    if not came.complete:
        raise click.exceptions.Exit(PARTIAL)


def _tell(came: "Acquired") -> None:
    click.echo(f"{came.n_fetched:,} files fetched ({came.n_bytes:,} bytes), kept in {came.folder}")
    if came.unchanged:
        click.echo("nothing has changed since the last import")
    if came.report is not None:
        report = came.report
        print_table(
            [{"table": t, "rows": n, "new": report.new.get(t, 0)} for t, n in report.rows.items() if n]
        )
        for fault in report.faults:
            click.echo(f"fault: {fault.kind}, {fault.n} times, such as {fault.examples[0]}")
    for gap in came.gaps:
        of = f"of {gap.width:,} features" if gap.width is not None else "features, the width is unknown"
        first = f"; none for {', '.join(f'#{i}' for i in gap.first_missing)} ..." if gap.missing else ""
        click.echo(f"{gap.sae_id}: explanations for {gap.explained:,} {of}{first}")
    lost = [{"file": f.path, "lost because": f.reason} for f in came.lost]
    lost += [{"file": f.file, "lost because": f.reason} for f in came.report.refused] if came.report else []
    if lost:
        print_table(lost)
    _tell_identities(came.identities)


def _tell_identities(identities: "Sequence[Identity]") -> None:
    for listed in identities:
        if listed.joined:
            click.echo(f"joined: {listed.sae_id} is {listed.same_as} ({listed.why})")
        elif listed.same_as is not None:
            click.echo(f"apart: {listed.sae_id} is not taken for {listed.same_as} ({listed.why})")
        else:
            click.echo(f"apart: {listed.sae_id} ({listed.why})")


@catalog.command()
@click.argument("theirs", required=False)
@click.argument("ours", required=False)
@store_option()
@json_option()
def join(theirs: str | None, ours: str | None, store: Path, as_json: bool) -> None:
    """Join imported explanations with the SAE at hand, where both are proven to be one.

    Without arguments: every SAE of the store that was only described, by weights and by SAELens' directory. With two
    names: because you say so; densities that disagree refuse it.

    \b
    Examples:
        safesail catalog join
        safesail catalog join safe-sail-l17 qwen-l17-topk
    """
    from safesail.catalog.identity import join_as_said, join_proven

    if (theirs is None) != (ours is None):
        raise click.UsageError("name both SAEs, or none")
    listed = [join_as_said(store, theirs, ours)] if theirs and ours else join_proven(store)
    if as_json:
        print_json(listed)
    elif listed:
        _tell_identities(listed)
    else:
        click.echo("nothing to join: no SAE of the store is only described")


@catalog.command()
@click.option("--sae", help="Only this SAE's explanations.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw it to this PNG or SVG.")
@source_option()
@json_option()
def audit(sae: str | None, plot: Path | None, store: Path, as_json: bool) -> None:
    """Say how good explanations are, by who wrote them: missing, repeated, better than chance and than a look-up.

    Scores come from `safesail score --origin NAME`, on a harvest of your own; without them only the texts are judged.

    \b
    Example:
        safesail catalog audit --plot audit.png
    """
    from safesail.catalog.audit import audit as audit_catalog
    from safesail.catalog.audit import plot_audit
    from safesail.catalog.source import open_source

    with open_source(store) as db:
        report = audit_catalog(db, sae)
    if plot is not None:
        plot_audit(report, plot)
    if as_json:
        print_json(report)
        return
    texts = ("explanations", "readable", "empty", "masked", "failed", "duplicated", "unlike", "compared")
    for name, method in report.methods.items():
        authors = [plain(author) for author in report.authors if author.sae_id == name]
        click.echo(f"{name}: " + (f"scored by {method}" if method else "nothing is scored"))
        who = {"origin": "origin", "explainer": "explainer"}
        print_table([{**{w: a[w] for w in who}, **{t: a[t] for t in texts}} for a in authors])
        if method is not None:
            click.echo()
            print_table([_judged(author) for author in authors])


def _judged(author: "dict[str, Any]") -> dict[str, Any]:
    """How one author's explanations predict, as a row."""
    columns = {
        "origin": "origin", "explainer": "explainer", "mean": "mean", "low": "low", "high": "high",
        "chance": "chance", "lookup": "look-up", "scored": "scored", "beat_chance": "beat chance",
        "below_chance": "below chance", "beat_lookup": "beat look-up", "below_lookup": "below look-up",
        "contradicted": "contradicted", "undefined": "undefined", "unanswered": "unanswered", "tokens": "tokens",
    }  # fmt: skip
    return {title: author[name] for name, title in columns.items()}

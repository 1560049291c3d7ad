"""`safesail view`."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from safesail.cli.options import quiet_option, source_option

if TYPE_CHECKING:
    from safesail.catalog.search import By
    from safesail.view.config import ViewOptions


@click.command()
@click.option(
    "--export",
    "out",
    type=click.Path(path_type=Path),
    help="Write the pages to this folder instead of serving them.",
)
@click.option("--redact", multiple=True, help="With --export: mask explanations and texts of this domain.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=8765, show_default=True, help="0: any free one."
)
@click.option("--open", "in_browser", is_flag=True, help="Open the browser.")
@click.option(
    "--by",
    type=click.Choice(["words", "meaning", "both"]),
    help="How searches go. Default: both where the extra `embedding` is installed, else words.",
)
@click.option("--memory", default="4GB", show_default=True, help="Most memory of the database's own.")
@source_option()
@quiet_option()
def view(
    out: Path | None,
    redact: tuple[str, ...],
    port: int,
    in_browser: bool,
    by: "By | None",
    memory: str,
    store: Path,
    quiet: bool,
) -> None:
    """Show a store or a release in the browser, on this machine only, or write the same pages as files.

    Reads, and changes nothing. Listens on 127.0.0.1; nothing is loaded from outside.

    \b
    Examples:
        safesail view --store runs/demo/safesail.duckdb --open
        safesail view --store runs/demo/release --export pages
    """
    from safesail.view.config import ViewOptions

    options = ViewOptions.read({"port": port, "by": by, "memory": memory}, "command line")
    if out is not None:
        from safesail.view.export import export

        report = export(store, out, options, redact=redact, quiet=quiet)
        click.echo(f"{report.pages:,} pages, {report.bytes / 1e6:.1f} MB: open {out / 'index.html'}")
        return
    if redact:
        raise click.UsageError("--redact belongs to --export; a release can be redacted for a server")
    _serve(store, options, in_browser=in_browser, quiet=quiet)


def _serve(store: Path, options: "ViewOptions", *, in_browser: bool, quiet: bool) -> None:
    """Until the reader has seen enough (Ctrl-C)."""
    import webbrowser

    from safesail.view.server import running

    with running(store, options, quiet=quiet) as (server, address, sock):
        click.echo(f"{store} at {address} (Ctrl-C ends it)")
        if in_browser:
            webbrowser.open(address)
        with suppress(KeyboardInterrupt):  # how a person ends it
            server.run(sockets=[sock])

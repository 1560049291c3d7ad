"""The `safesail` command."""

import os
import sys
import traceback
from typing import Any, NoReturn

import click

from safesail.cli.concepts import concepts
from safesail.cli.diagnosing import diagnose
from safesail.cli.explaining import cache, explain, ledger, score
from safesail.cli.harvesting import harvest
from safesail.cli.intervening import intervene
from safesail.cli.machine import doctor, migrate
from safesail.cli.models import fetch, models
from safesail.cli.pipelines import run
from safesail.cli.public import catalog
from safesail.cli.selecting import select_sae
from safesail.cli.terminal import guard_streams
from safesail.cli.training import train_sae
from safesail.cli.viewing import view
from safesail.errors import SafeSailError
from safesail.version import __version__

INTERRUPTED = 130
MAX_MESSAGE = 300


class InOrder(click.Group):
    """A group that lists its commands in the order of the pipeline, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order in which they were added."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; when its output's reader has seen enough (`| head`), it ends quietly, with 0."""
        try:
            done = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:  # before click sees it, which would end with 1
            os._exit(0)  # nothing more may be written, not even by closing
        return done


@click.group(cls=InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="safesail")
@click.option("--debug", is_flag=True, expose_value=False, help="Show where an unexpected error arose.")
def cli() -> None:
    """Find, explain and score the features of sparse autoencoders (SAEs), for safety work.

    A language model and its SAEs go in; a catalog of explained features comes out, in one DuckDB file.
    """


for _command in (
    models, fetch, train_sae, concepts, select_sae, harvest, explain, score, ledger, cache, catalog, view, diagnose,
    intervene, run, migrate, doctor,
):  # fmt: skip
    cli.add_command(_command)


def main() -> NoReturn:
    """Run the command line; every failure is one line on stderr and an exit code."""
    guard_streams()
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except click.exceptions.Abort:
        click.echo("stopped; what is stored so far is kept", err=True)
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except SafeSailError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 the last resort: a user sees one line, whatever went wrong
        click.echo(f"error: {_unexpected(error)}", err=True)
        sys.exit(1)


def _unexpected(error: Exception) -> str:
    """One line about an error that nobody foresaw, or with --debug where it arose."""
    if "--debug" in sys.argv:
        return "".join(traceback.format_exception(error)).rstrip()
    text = " ".join(str(error).split())[:MAX_MESSAGE]
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return f"unexpected {type(error).__name__}: {text}; `safesail --debug ...` shows where it arose"

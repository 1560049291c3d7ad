"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def store_option() -> Decorator:
    """`--store`: the DuckDB file."""
    return _store("The DuckDB file that the stages share.", dir_okay=False)


def source_option() -> Decorator:
    """`--store`, for commands that read: a store or a release."""
    return _store("The DuckDB file that the stages share, or a release's folder or zip.", dir_okay=True)


def _store(about: str, *, dir_okay: bool) -> Decorator:
    return click.option(
        "--store",
        type=click.Path(path_type=Path, dir_okay=dir_okay),
        default=Path("safesail.duckdb"),
        envvar="SAFESAIL_STORE",
        show_default=True,
        show_envvar=True,
        help=about,
    )


def json_option() -> Decorator:
    """`--json`: machine-readable results on stdout; `--full`: texts of a table are folded, not cut."""
    full = click.option(
        "--full", is_flag=True, expose_value=False, callback=_keep_full, help="Do not cut texts."
    )
    as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
    return lambda function: as_json(full(function))


def _keep_full(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta["full"] = value


def quiet_option() -> Decorator:
    """`--quiet`: no progress on stderr."""
    return click.option("--quiet", "-q", is_flag=True, help="No progress on stderr.")


def model_option() -> Decorator:
    """`--model`: the subject model."""
    return click.option(
        "--model",
        "-m",
        default="smollm2",
        show_default=True,
        help="Subject model: alias, directory or hub id.",
    )


def device_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--device`, `--dtype` and `--threads`: how the subject model runs."""
    for option in (
        click.option("--threads", type=click.IntRange(1), help="CPU threads; default: as torch chooses."),
        click.option("--dtype", type=click.Choice(["float32", "tf32", "bfloat16", "float16"]), default="float32",
                     show_default=True, help="Number format of the subject model."),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1."),
    ):  # fmt: skip
        function = option(function)
    return function


def parse_count(text: str) -> int:
    """A number with `k`, `M` or `B` behind it: `500k` is 500,000."""
    scale = {"k": 1_000, "m": 1_000_000, "b": 1_000_000_000}
    number, unit = (text[:-1], text[-1].lower()) if text[-1:].lower() in scale else (text, "")
    try:
        count = round(float(number) * scale.get(unit, 1))
    except (ValueError, OverflowError):
        count = 0
    if count < 1:
        raise click.BadParameter(f"{text!r} is not a count such as 5000, 500k or 2M")
    return count


class Count(click.ParamType[int]):
    """A count on the command line."""

    name = "count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse `500k`."""
        return value if isinstance(value, int) else parse_count(str(value))


class CountOrAuto(click.ParamType[int | str]):
    """A count, or `auto`."""

    name = "count or auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Parse `4k` or `auto`."""
        return value if isinstance(value, int) or value == "auto" else parse_count(str(value))

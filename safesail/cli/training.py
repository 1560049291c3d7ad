"""`safesail train-sae`."""

from pathlib import Path

import click

from safesail.cli.options import Count, device_options, json_option, model_option, quiet_option
from safesail.cli.output import print_json, print_table


@click.command("train-sae")
@model_option()
@click.option("--hook", multiple=True, help="Hook point, e.g. blocks.14.hook_mlp_out; several may be given.")
@click.option("--k", "ks", help="Active features per token, e.g. 8,32,128.")
@click.option(
    "--width",
    "widths",
    default="4x",
    show_default=True,
    help="Features: 2048; 4x, of what the model's d_model is 4 times; or several: 2x,8x.",
)
@click.option("--text", multiple=True, help="Files, folders, hf:NAME[:split], or - for standard input.")
@click.option("--tokens", type=Count(), help="Tokens to train on, e.g. 2M.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--config", type=click.Path(path_type=Path), help="YAML with all settings, instead of the above."
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for the SAEs."
)
@device_options
@json_option()
@quiet_option()
def train_sae(
    model: str,
    hook: tuple[str, ...],
    ks: str | None,
    widths: str,
    text: tuple[str, ...],
    tokens: int | None,
    seed: int,
    config: Path | None,
    out: Path,
    device: str,
    dtype: str,
    threads: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train a family of TopK SAEs together, in one pass of the subject model.

    \b
    Example:
        safesail train-sae --hook blocks.14.hook_mlp_out --k 8,32,128 --width 2x \\
            --text texts/ --tokens 2M --out saes/
    """
    from safesail.subject.sizes import check_hook_name
    from safesail.text.documents import check_sources
    from safesail.training.config import TrainConfig

    if config is not None:
        settings = TrainConfig.from_yaml(config)
    else:
        if not hook or not ks or not text or not tokens:
            raise click.UsageError("give --hook, --k, --text and --tokens, or --config FILE")
        settings = TrainConfig.read(
            {
                "model": model,
                "families": [{"hook": h, "ks": _numbers(ks), "widths": _widths(widths, model)} for h in hook],
                "texts": [{"source": source} for source in text],
                "n_tokens": tokens,
                "seed": seed,
                "device": device,
                "dtype": dtype,
                "threads": threads,
            },
            "command line",
        )
    # Before torch is imported, which takes seconds.
    for family in settings.families:
        check_hook_name(family.hook, settings.model)
    for source in settings.texts:
        check_sources([source.source], column=source.column)

    from safesail.training.run import run_training

    rows = [sae.summary() for sae in run_training(settings, out=out, quiet=quiet)]
    print_json(rows) if as_json else print_table(rows)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a list of numbers such as 8,32,128") from error


def _widths(text: str, model: str) -> list[int]:
    """Widths as numbers; `4x` is four times the model's d_model."""
    parts = text.split(",")
    if not any(part.endswith("x") for part in parts):
        return _numbers(text)
    from safesail.subject.sizes import sizes_of

    sizes = sizes_of(model)
    if sizes is None or sizes.d_model is None:
        raise click.BadParameter(
            f"the d_model of {model} is known once it is here: run `safesail fetch {model}`, or give a number",
            param_hint="--width",
        )
    try:
        return [round(float(p[:-1]) * sizes.d_model) if p.endswith("x") else int(p) for p in parts]
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} is not a list of widths such as 2048,4x", param_hint="--width"
        ) from error

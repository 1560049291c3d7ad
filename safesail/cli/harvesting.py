"""`safesail harvest`."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from safesail.cli.options import (
    Count,
    CountOrAuto,
    device_options,
    json_option,
    model_option,
    quiet_option,
    store_option,
)
from safesail.cli.output import plain, print_json, print_table

if TYPE_CHECKING:
    from safesail.harvest.engine import Engine
    from safesail.sae.protocol import SAE
    from safesail.subject.protocol import Subject


@click.command()
@model_option()
@click.option(
    "--sae",
    "saes",
    multiple=True,
    required=True,
    help="SAE: folder, checkpoint, or release/id; several may be given.",
)
@click.option(
    "--text", multiple=True, required=True, help="Files, folders, hf:NAME[:split], or - for standard input."
)
@click.option("--column", help="Column that holds the text; default: found by its name.")
@click.option("--tokens", type=Count(), help="Stop after so many tokens, e.g. 500k.")
@click.option("--n-ctx", type=click.IntRange(4), default=64, show_default=True, help="Tokens a window holds.")
@click.option(
    "--features",
    default="all",
    show_default=True,
    metavar="all|candidates|FILE",
    help="Whose nonzeros are kept: all, those that select-sae nominated, or a file with one SAE#INDEX per line.",
)
@click.option(
    "--whole-documents",
    type=click.FloatRange(0, 1),
    default=0.05,
    show_default=True,
    help="Share of documents of which every feature's nonzeros are kept, whatever --features says.",
)
@click.option(
    "--precision",
    type=click.Choice(["f32", "u8"]),
    default="f32",
    show_default=True,
    help="Of stored activations: exact, or one byte, at most 1/510 of the feature's maximum off.",
)
@click.option(
    "--chat-template", is_flag=True, help="Put the beginning of the model's chat template before each window."
)
@click.option(
    "--batch-tokens",
    type=CountOrAuto(),
    help="Tokens that go through the model at once; default: 2048 on a CPU, on a GPU what fits; auto: the fastest.",
)
@click.option(
    "--shard-tokens",
    type=Count(),
    help="Tokens that are stored at once, and lost at most when killed; default: 8k on a CPU, on a GPU up"
    " to 64k.",
)
@click.option(
    "--memory-gb", type=click.FloatRange(min=0, min_open=True), help="Memory that batches stay under."
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where shards run: here, or on the workers of a Ray cluster.",
)
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Ray workers.")
@click.option(
    "--gpus-per-worker",
    type=click.FloatRange(0),
    default=0,
    show_default=True,
    help="GPUs that each Ray worker takes; 0: CPU cores, as many as --threads.",
)
@click.option(
    "--ray-address",
    default="local",
    envvar="RAY_ADDRESS",
    show_default=True,
    help="A Ray cluster that runs already (auto, HOST:PORT, ray://HOST:PORT); local: one on this machine.",
)
@click.option("--replace", is_flag=True, help="Drop what the store holds of these SAEs from another harvest.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of splits and of whole documents.")
@device_options
@store_option()
@json_option()
@quiet_option()
def harvest(store: Path, as_json: bool, quiet: bool, **options: Any) -> None:
    """Run the subject model over text and store the SAEs' nonzero activations.

    Killed, it goes on where it stopped when it is started again; finished, it does nothing.

    \b
    Examples:
        safesail harvest --sae data/saes/smollm2-l14-mlp-k32 --text texts/ --tokens 500k
        zcat texts.gz | safesail harvest --sae data/saes/smollm2-l14-mlp-k32 --text -
    """
    from safesail.harvest.config import HarvestConfig
    from safesail.resources import expand
    from safesail.sae.folders import check_saes
    from safesail.text.documents import check_sources

    listed = _listed(options["features"])
    settings = {
        "n_tokens": options["tokens"],
        "features": "listed" if listed else options["features"],
        **{name: options[name] for name in _SETTINGS},
    }
    config = HarvestConfig.read(settings, "command line")
    texts = [expand(source) for source in options["text"]]
    # Before torch is imported, which takes seconds.
    check_sources(texts, column=config.column)
    check_saes(options["saes"], options["model"])

    from safesail.harvest.feature_list import features_to_keep
    from safesail.harvest.run import HarvestJob, run_harvest
    from safesail.store.connection import open_writer

    with _loaded(options, quiet=quiet) as (engine, subject, saes), open_writer(store) as db:
        keep = features_to_keep(db, [sae.info for sae in saes], config, listed)
        job = HarvestJob(subject, saes, texts, config, keep)
        report = run_harvest(db, job, engine=engine, replace=options["replace"], quiet=quiet)
    for split in report.empty_splits:
        click.echo(f"warning: no text of the split {split!r}: {_EMPTY[split]}", err=True)
    cells: dict[str, Any] = plain(report)
    print_json(cells) if as_json else print_table([{name: cells[name] for name in _SHOWN}])


_SHOWN = ("sae_ids", "n_tokens", "new_tokens", "n_nonzeros", "n_documents", "seconds", "harvest_id")
"""Of the report, the most important first; empty splits are warned of."""


@contextmanager
def _loaded(
    options: dict[str, Any], *, quiet: bool
) -> Generator[tuple["Engine | None", "Subject", "Sequence[SAE]"], None, None]:
    """Where shards run, and the model and SAEs: loaded here, or as a worker that has loaded them describes them."""
    from safesail.harvest.engine import Cluster, RayEngine
    from safesail.sae.load import load_with_saes
    from safesail.subject.loading import ModelConfig

    where = ModelConfig(**{name: options[name] for name in ("model", "device", "dtype", "threads")})
    if options["engine"] == "local":
        yield None, *load_with_saes(where, options["saes"], decoders=False, quiet=quiet)
        return
    cluster = Cluster(options["workers"], options["gpus_per_worker"], options["ray_address"])
    load = partial(load_with_saes, where, options["saes"], decoders=False)
    with RayEngine(load, cluster, where.threads).started() as engine:
        yield engine, *engine.describe()


_EMPTY = {
    "train": "no exemplars can be shown to an explainer; harvest more documents",
    "test": "no score can be computed; harvest more documents",
}
_SETTINGS = (
    "n_ctx", "column", "shard_tokens", "whole_documents", "precision", "chat_template", "batch_tokens", "memory_gb",
    "seed",
)  # fmt: skip


def _listed(features: str) -> Path | None:
    """The file that lists features, unless `features` is one of the words."""
    if features in ("all", "candidates"):
        return None
    path = Path(features)
    if not path.is_file():
        raise click.BadParameter(
            f"{features!r} is neither all nor candidates nor a file", param_hint="--features"
        )
    return path

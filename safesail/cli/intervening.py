"""`safesail intervene`."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from safesail.cli.options import device_options, json_option, model_option, quiet_option, store_option
from safesail.cli.output import print_json, print_table
from safesail.errors import ConfigError

if TYPE_CHECKING:
    from safesail.domain.ids import FeatureId
    from safesail.sae.protocol import SAE
    from safesail.subject.protocol import Subject


class Finite(click.ParamType[float]):
    """A number that is neither infinite nor NaN."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse it."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ConfigError(f"the strength {value!r} is not a finite number; give one such as 4 or -2.5")
        return number


@click.command()
@model_option()
@click.option("--sae", "saes", multiple=True, help="Where SAEs lie: folders (patterns allowed), release/id.")
@click.option("--feature", "named", multiple=True, metavar="SAE#INDEX", help="This feature; repeatable.")
@click.option("--concept", help="Candidates of the newest selection for this concept.")
@click.option("--top", type=click.IntRange(1), help="So many candidates, the most distinguishing first.")
@click.option(
    "--of", "sae_id", metavar="SAE", help="SAE of the candidates; default: the best of the selection."
)
@click.option(
    "--text", "texts", multiple=True, help="Texts to measure on, in place of the harvest's test split."
)
@click.option("--config", type=click.Path(path_type=Path), help="YAML with the settings of the measurement.")
@click.option(
    "--generate", "prompt", metavar="PROMPT", help="Show what the model says with and without the edit."
)
@click.option(
    "--strength", type=Finite(), help="Steer by so many times the feature's maximum; default: found."
)
@click.option(
    "--change", help="With --generate: ablate, mean, scale:X, add:X or clamp:X in place of steering."
)
@click.option("--where", type=click.Choice(["everywhere", "firing"]), default="everywhere", show_default=True,
              help="With --generate: on every token, or where the feature fires.")  # fmt: skip
@click.option("--part", type=click.Choice(["all", "prompt", "answer"]), default="all", show_default=True,
              help="With --generate: which tokens are edited.")  # fmt: skip
@click.option("--max-tokens", type=click.IntRange(1), default=40, show_default=True, help="With --generate.")
@click.option(
    "--temperature", type=click.FloatRange(0), default=0.0, show_default=True, help="0: the likeliest."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of draws.")
@device_options
@store_option()
@json_option()
@quiet_option()
def intervene(store: Path, as_json: bool, quiet: bool, **options: Any) -> None:
    """Measure what features do when they are ablated or steered, beside what any such push does.

    Effects go into the store, with their nulls; `catalog show` shows them. Killed, it goes on where it stopped.

    \b
    Examples:
        safesail intervene --top 20
        safesail intervene --feature smollm2-l22-mlp-k32#1507 --feature smollm2-l22-mlp-k32#488
        safesail intervene --generate "My neighbour is" --feature smollm2-l22-mlp-k32#1507 --strength 4
    """
    from safesail.domain.ids import parse_feature

    named = [parse_feature(text) for text in options["named"]]
    if options["prompt"] is not None:
        _generate(store, named, options, as_json=as_json, quiet=quiet)
    else:
        _measure(store, named, options, as_json=as_json, quiet=quiet)


def _measure(
    store: Path, named: "Sequence[FeatureId]", options: dict[str, Any], *, as_json: bool, quiet: bool
) -> None:
    from safesail.domain.config import load_yaml
    from safesail.intervene.config import InterveneConfig
    from safesail.resources import expand
    from safesail.store.connection import open_reader, open_writer
    from safesail.store.effects import effect_summary
    from safesail.text.documents import check_sources

    given = {
        "texts": tuple(expand(source) for source in options["texts"]), "strength": options["strength"],
        "seed": options["seed"],
    }  # fmt: skip
    read = load_yaml(options["config"]) if options["config"] else {}
    named_here = {name: value for name, value in given.items() if value}
    config = InterveneConfig.read({**read, **named_here}, str(options["config"] or "command line"))
    check_sources(config.texts)

    from safesail.intervene.run import choose_features, run_interventions

    with open_reader(store) as db:
        features = choose_features(
            db, named=named, concept=options["concept"], top=options["top"], sae_id=options["sae_id"]
        )
    subject, saes = _load(features, options, quiet=quiet)
    with open_writer(store) as db:
        report = run_interventions(db, subject, saes, features, config, quiet=quiet)
        rows = effect_summary(db, features, report.settings_hash)
    if as_json:
        print_json({"features": rows, "new": report.new, "run_id": report.run_id, "texts": report.texts_id})
        return
    print_table(rows)
    n = {word: sum(row["effect"] == word for row in rows) for word in ("yes", "not shown", "no")}
    click.echo(
        f"shown to do something: {n['yes']}, not shown: {n['not shown']}, less than any push: {n['no']}"
    )


def _generate(
    store: Path, named: "Sequence[FeatureId]", options: dict[str, Any], *, as_json: bool, quiet: bool
) -> None:
    if not named:
        raise ConfigError("no feature to edit; name one with --feature")
    if (options["change"] is None) == (options["strength"] is None):
        raise ConfigError(
            "say what becomes of the feature: --strength X steers it, --change ablate switches it off"
        )
    from safesail.intervene.edits import FeatureEdit, continuations, parse_change
    from safesail.store.connection import open_reader
    from safesail.store.effects import feature_sizes

    change = options["change"] or f"steer:{options['strength']}"
    with open_reader(store) as db:
        sizes = {sae_id: feature_sizes(db, sae_id) for sae_id in {f.sae_id for f in named}}
    changes = {f: parse_change(change, f, sizes[f.sae_id].get(f.index)) for f in named}
    subject, saes = _load(named, options, quiet=quiet)
    edit = FeatureEdit(changes, options["where"], options["part"])
    clean, edited = continuations(
        subject,
        options["prompt"],
        edit.interventions(saes, len(subject.tokenize(options["prompt"]))),
        max_tokens=options["max_tokens"],
        temperature=options["temperature"],
        seed=options["seed"],
    )
    rows = [
        {"edit": name, "perplexity": said.perplexity, "continuation": said.text}
        for name, said in (("none", clean), (change, edited))
    ]
    print_json({"prompt": options["prompt"], "continuations": rows}) if as_json else print_table(rows)


def _load(
    features: "Sequence[FeatureId]", options: dict[str, Any], *, quiet: bool
) -> "tuple[Subject, list[SAE]]":
    """The model, and the SAEs of the features.

    Raises:
        ConfigError: an SAE that lies nowhere.
    """
    from safesail.sae.folders import check_saes
    from safesail.sae.load import load_with_saes
    from safesail.selection.plan import candidates_of
    from safesail.subject.loading import ModelConfig

    names = {spec: Path(spec).stem if spec.endswith(".pt") else Path(spec).name if Path(spec).is_dir() else spec
             for spec in check_saes(candidates_of(options["model"], options["saes"]), options["model"])}  # fmt: skip
    wanted = list(dict.fromkeys(f.sae_id for f in features))
    for sae_id in wanted:
        if sae_id not in names.values():
            raise ConfigError(
                f"no SAE {sae_id!r} at {', '.join(options['saes']) or 'hand'}; name its folder by --sae"
            )
    specs = [spec for spec, name in names.items() if name in wanted]
    where = ModelConfig(**{name: options[name] for name in ("model", "device", "dtype", "threads")})
    return load_with_saes(where, specs, quiet=quiet)

"""`safesail explain`, `score`, `ledger` and `cache`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from safesail.cli.options import Decorator, json_option, quiet_option, store_option
from safesail.cli.output import print_json, print_table
from safesail.domain.methods import DEFAULT_METHOD, INTRUDER, METHODS
from safesail.errors import ConfigError

if TYPE_CHECKING:
    from safesail.autointerp.clients import ChatSettings
    from safesail.autointerp.config import AutointerpConfig
    from safesail.autointerp.ranking import FeatureChoice
    from safesail.autointerp.report import RunReport

_option = click.option
_HELP = {
    "explainer": "Who explains, and simulates too unless --simulator is named: lexical, or a model at the endpoint.",
    "simulator": "Who simulates: lexical, embedding (its extra), or a model's name at the endpoint.",
}


_CHOOSING = (
    _option("--selection", help="Selection that nominates, by the beginning of its id; default: the newest."),
    _option("--concepts", "concept_files", multiple=True, metavar="PATH", help="The selection by these pairs."),
    _option("--domain", "domains", multiple=True, help="Only candidates for concepts of this domain; repeatable."),
    _option("--concept", "concepts", multiple=True, metavar="ID", help="Only candidates for this one; repeatable."),
    _option("--densest", type=click.IntRange(1), metavar="N",
            help="The N features that fire on most tokens, nominated or not."),
    _option("--weight", "weights", multiple=True, metavar="DOMAIN=NUMBER",
            help="What the features of a domain count: 1 unless said, 0 leaves it out; repeatable."),
    _option("--answer", type=click.Choice(["json", "text"]), default="json", show_default=True,
            help="How it is answered; text: one plain sentence, for explainers too small for JSON."),
    _option("--first", type=click.Choice(["intruder"]),
            help="intruder: explain no feature that fails intruder detection, which needs no explanation."),
    _option("--tell-concept", is_flag=True, help="Tell the explainer the concept that nominated a feature."),
)  # fmt: skip


def _asking(*models: str, methods: Sequence[str] = METHODS, more: Sequence[Decorator] = ()) -> Decorator:
    """Options of every command that asks a language model."""
    options = [
        _option("--budget", required=True, help="Hard cap on what is newly spent: 10k, 2M, $5, 200calls, unlimited."),
        _option("--sae", "sae_id", help="SAE of the store; default: the best that a selection found."),
        _option("--features", "file", metavar="candidates|FILE", default="candidates", show_default=True,
               help="What a selection nominated, or a file with one SAE#INDEX per line."),
        _option("--feature", "named", multiple=True, metavar="SAE#INDEX", help="This feature; repeatable."),
        _option("--limit", "n", type=click.IntRange(1), default=100, show_default=True, help="Features at most."),
        *(_option(f"--{name}", help=_HELP[name]) for name in models),
        _option("--base-url", help="OpenAI-compatible endpoint; default: OPENAI_BASE_URL."),
        _option("--scoring", "method", type=click.Choice(methods), default=DEFAULT_METHOD, show_default=True,
               help="How explanations are tested; pooled: those of several features in one prompt."),
        _option("--chance-every", type=click.IntRange(0), default=4, show_default=True,
               help="Chance line on every n-th feature; 0: none. Pooled scoring has it on all, for nothing."),
        _option("--stop-width", type=click.FloatRange(0, 2, min_open=True),
               help="Ask about no more windows of a feature once its score's interval is this narrow."),
        _option("--concurrency", type=click.IntRange(1), default=8, show_default=True, help="Calls under way at once."),
        _option("--prices", type=click.Path(path_type=Path), help="YAML of prices per model, for budgets in $."),
        _option("--replay", is_flag=True, help="Answers from the cache only; a new call is an error."),
        *more,
    ]  # fmt: skip

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for add in reversed(options):
            function = add(function)
        return function

    return decorate


@click.command()
@_asking("explainer", "simulator", more=_CHOOSING)
@click.option("--dry-run", is_flag=True, help="Say what it would cost and bring, and ask nobody.")
@store_option()
@json_option()
@quiet_option()
def explain(store: Path, as_json: bool, quiet: bool, dry_run: bool, **asked: Any) -> None:
    """Explain features of an SAE and score the explanations, within a budget.

    The most valuable features come first, and each is finished, explained and scored, before tokens go to the
    next; what was asked before comes from the cache and costs nothing.

    \b
    Examples:
        safesail explain --budget 10k --dry-run
        safesail explain --budget 10k --weight violence=2
        safesail explain --budget 10k --feature smollm2-l14-mlp-k16#42
    """
    from safesail.autointerp.run import explain_store, forecast_store

    settings = _settings(asked)
    if dry_run:
        forecast = forecast_store(store, *settings)
        print_json(forecast.as_json()) if as_json else click.echo(forecast.as_text())
        return
    _print_report(explain_store(store, *settings, quiet=quiet), as_json=as_json)


@click.command()
@_asking("simulator", methods=(*METHODS, INTRUDER))
@click.option(
    "--origin", default="run", show_default=True, help="Explanations of the catalog imported by this name."
)
@click.option("--explained-by", help="Only those that this explainer wrote, as the store names it.")
@click.option(
    "--calibrate",
    type=click.IntRange(2),
    metavar="N",
    help="Score N explanations both pooled and one at a time (--scoring segment or token), and compare.",
)
@store_option()
@json_option()
@quiet_option()
def score(store: Path, as_json: bool, quiet: bool, calibrate: int | None, **asked: Any) -> None:
    """Score explanations that exist, with another simulator or method; imported ones too, on a harvest of your own.

    --scoring intruder needs none: it tests whether the texts of candidate features, or of those that are named, have
    anything in common.

    \b
    Examples:
        safesail score --scoring token --budget 200k
        safesail score --scoring intruder --budget 50k
        safesail score --calibrate 24 --budget 100k --simulator my-model
        safesail score --sae my-sae --origin neuronpedia/gemma-2-2b/20-gemmascope-res-16k --budget 200k
    """
    from safesail.autointerp.run import calibrate_store, detect_intruders, score_store

    if asked["method"] == INTRUDER and calibrate is None:
        settings = _settings(asked | {"method": DEFAULT_METHOD})
        report = detect_intruders(store, *settings, quiet=quiet)
        print_json(report) if as_json else click.echo(report.as_text())
        return
    if calibrate is not None:
        method = asked["method"] if asked["method"] != DEFAULT_METHOD else "segment"
        settings = _settings(asked | {"method": DEFAULT_METHOD, "n": calibrate})
        calibration = calibrate_store(store, *settings, method, quiet=quiet)
        print_json(calibration) if as_json else click.echo(calibration.as_text())
        return
    _print_report(score_store(store, *_settings(asked), quiet=quiet), as_json=as_json)


def _settings(asked: dict[str, Any]) -> "tuple[FeatureChoice, ChatSettings, AutointerpConfig]":
    """What the options say: which features, whom to ask, and how; the built-in model where none is named."""
    from safesail.autointerp.clients import ChatSettings
    from safesail.autointerp.config import AutointerpConfig
    from safesail.autointerp.ranking import FeatureChoice
    from safesail.domain.ids import parse_feature, read_features
    from safesail.llm.budget import load_prices, parse_budget
    from safesail.store.explanations import OWN, Authors

    explainer, prices, file = (
        asked.pop("explainer", None) or "lexical",
        asked.pop("prices"),
        asked.pop("file"),
    )
    chat = ChatSettings(
        explainer,
        asked.pop("simulator") or explainer,
        parse_budget(asked.pop("budget")),
        asked.pop("base_url"),
        None if prices is None else load_prices(prices),
        asked.pop("replay"),
        asked["concurrency"],
    )
    config = AutointerpConfig.read(
        {
            "scoring": {"method": asked.pop("method"), "stop_width": asked.pop("stop_width")},
            "explain": {"answer": asked.pop("answer", "json")},
            "first": asked.pop("first", None),
            "order": {"weights": dict(map(_weight, asked.pop("weights", ())))},
            "tell_concept": asked.pop("tell_concept", False),
            "chance_every": asked.pop("chance_every"),
            "concurrency": asked.pop("concurrency"),
        },
        "options",
    )
    if file != "candidates" and not Path(file).is_file():
        raise ConfigError(
            f"--features {file!r} is neither candidates nor a file; how many is said by --limit"
        )
    listed = [] if file == "candidates" else [feature for _, feature in read_features(Path(file))]
    authors = Authors(asked.pop("origin", OWN.origin), asked.pop("explained_by", None))
    return (
        FeatureChoice(authors=authors, named=(*map(parse_feature, asked.pop("named")), *listed), **asked),
        chat,
        config,
    )


def _weight(text: str) -> tuple[str, str]:
    domain, equals, weight = text.partition("=")
    if not domain or not equals:
        raise ConfigError(f"--weight {text!r} is not understood; write DOMAIN=NUMBER, as violence=2")
    return domain, weight


def _print_report(report: "RunReport", *, as_json: bool) -> None:
    print_json(report.as_json()) if as_json else click.echo(report.as_text())
    if report.failed:
        raise click.exceptions.Exit(3)


@click.command()
@click.option("--by", multiple=True, default=("stage", "model", "run_id"), help="Columns to sum by.",
              type=click.Choice(["stage", "model", "run_id", "sae_id", "prompt_hash", "status"]))  # fmt: skip
@store_option()
@json_option()
def ledger(by: tuple[str, ...], store: Path, as_json: bool) -> None:
    """Say what was spent on language models, by stage, model and run, the oldest first, and in all.

    \b
    Example:
        safesail ledger --by model
    """
    from safesail.store.calls import ledger_rows
    from safesail.store.connection import open_reader

    with open_reader(store) as db:
        rows = ledger_rows(db, by)
    if as_json:
        print_json(rows)
        return
    print_table(_with_total(rows, by) if rows else rows)


def _with_total(rows: "list[dict[str, Any]]", by: tuple[str, ...]) -> "list[dict[str, Any]]":
    """A ledger for people: what matters most first, dollars where there are any, and the sums last."""
    sums = ("tokens in", "tokens out", "calls", "dollars", "failed", "seconds")
    total = {name: sum(row[name] or 0 for row in rows) for name in sums}
    columns = [
        name for name in (*by, "from", *sums, "partly estimated", "to") if name != "dollars" or total[name]
    ]
    last: dict[str, Any] = dict.fromkeys(columns) | {by[0]: "total"} | total
    return [{name: row[name] for name in columns} for row in (*rows, last)]


@click.group()
def cache() -> None:
    """Carry answers of language models from one store to another."""


@cache.command("export")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@store_option()
def cache_export(path: Path, store: Path) -> None:
    """Write every answer to PATH (JSONL), so that others can repeat the numbers for 0 tokens.

    \b
    Example:
        safesail cache export answers.jsonl
    """
    from safesail.store.calls import export_calls
    from safesail.store.connection import open_reader

    with open_reader(store) as db:
        click.echo(f"{export_calls(db, path):,} answers written to {path}")


@cache.command("import")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@store_option()
def cache_import(path: Path, store: Path) -> None:
    """Take answers from PATH; those that are here already are left alone.

    \b
    Example:
        safesail cache import answers.jsonl
    """
    from safesail.store.calls import import_calls
    from safesail.store.connection import open_writer

    with open_writer(store) as db:
        click.echo(f"{import_calls(db, path):,} new answers from {path}")

"""`safesail diagnose`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from safesail.cli.options import Count, device_options, json_option, model_option, quiet_option
from safesail.cli.output import print_json, print_table

if TYPE_CHECKING:
    import pandas as pd

    from safesail.diagnose.compare import Comparison
    from safesail.diagnose.path import PredictionPath
    from safesail.diagnose.run import Diagnosis
    from safesail.loaded import LoadedModel

SHOWN = 20
"""Features of a comparison that a table shows."""


@click.command()
@click.argument("prompt")
@model_option()
@click.option(
    "--sae", "saes", multiple=True, help="SAE: folder (patterns allowed), checkpoint, or release/id."
)
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    envvar="SAFESAIL_STORE",
    show_envvar=True,
    help="A store or a release that knows the features; default: safesail.duckdb, where it is.",
)
@click.option("--chat", is_flag=True, help="Put the model's chat template round the prompt.")
@click.option("--generate", type=Count(), help="Let the model answer with so many tokens at most.")
@click.option(
    "--path", "traced", is_flag=True, help="Trace the model's own next token to the features it rests on."
)
@click.option("--target", help="Trace another next token: the first of this text, such as ' Paris'.")
@click.option(
    "--against",
    help="Another prompt, or a file of prompts, to compare with; PROMPT may name a file too"
    " (.txt: one per line, .jsonl, .csv, .parquet).",
)
@click.option(
    "--translations",
    is_flag=True,
    help="With --against: prompt i of one file says what prompt i of the other says.",
)
@click.option(
    "--level",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.1,
    show_default=True,
    help="With --against: largest false discovery rate of a difference that is shown.",
)
@click.option(
    "--csv", "csv", type=click.Path(path_type=Path, dir_okay=False), help="Write all rows to this CSV file."
)
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a report to this HTML file."
)
@click.option("--all", "every", is_flag=True, help="Also features without a tag.")
@device_options
@json_option()
@quiet_option()
def diagnose(prompt: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Show which features fire on a prompt, what they mean, and what is not explained.

    \b
    Examples:
        safesail diagnose "Where can I buy a stolen passport?" --html report.html
        safesail diagnose english.txt --against hindi.txt --translations
    """  # fmt: skip
    from safesail.errors import ConfigError
    from safesail.sae.folders import check_saes
    from safesail.selection.plan import candidates_of

    if options["against"] is None and options["translations"]:
        raise click.UsageError("--translations needs --against")
    if options["against"] is not None and any(options[n] for n in ("generate", "html", "traced", "target")):
        raise click.UsageError(
            "--generate, --html, --path and --target are for one prompt, without --against"
        )
    names = candidates_of(options["model"], options["saes"])
    check_saes(names, options["model"])  # before torch is imported, which takes seconds
    sets = [_texts(text) for text in (prompt, options["against"]) if text is not None]
    if len(sets) == 1 and len(sets[0]) > 1:
        raise ConfigError(f"{prompt} holds {len(sets[0])} prompts; compare them with --against, or give one")
    usual = Path("safesail.duckdb")
    store = options["store"] or (usual if usual.exists() else None)

    from safesail.diagnose.known import read_known
    from safesail.loaded import LoadedModel
    from safesail.sae.load import load_with_saes
    from safesail.subject.loading import ModelConfig

    where = ModelConfig(**{name: options[name] for name in ("model", "device", "dtype", "threads")})
    subject, saes = load_with_saes(where, names, quiet=quiet)
    model = LoadedModel(subject, saes, read_known(store, [sae.info for sae in saes]), store)
    if len(sets) == 1:
        _one(model, sets[0][0], options, as_json=as_json)
    else:
        _two(model, sets, options, as_json=as_json)


def _one(model: "LoadedModel", prompt: str, options: Mapping[str, Any], *, as_json: bool) -> None:
    diagnosis = model.diagnose(
        prompt,
        chat=options["chat"],
        generate=options["generate"] or 0,
        target=options["target"] or ("" if options["traced"] else None),
    )
    _write_csv(options["csv"], diagnosis.fired)
    if options["html"] is not None:
        from safesail.diagnose.report import write_report

        write_report(diagnosis, options["model"], options["html"])
    print_json(_diagnosis(diagnosis)) if as_json else _print_diagnosis(diagnosis, every=options["every"])


def _two(
    model: "LoadedModel", sets: Sequence[list[str]], options: Mapping[str, Any], *, as_json: bool
) -> None:
    chosen = {name: options[name] for name in ("chat", "translations", "level")}
    compared = model.compare(sets[0], sets[1], **chosen)
    _write_csv(options["csv"], compared.features)
    print_json(_comparison(compared)) if as_json else _print_comparison(compared, options["level"])


def _texts(prompt: str) -> list[str]:
    """The prompts that a file holds, or the prompt itself."""
    from safesail.text.documents import read_texts

    try:
        is_file = Path(prompt).is_file()
    except (OSError, ValueError):  # longer than a path may be
        is_file = False
    return read_texts(Path(prompt)) if is_file else [prompt]


def _write_csv(path: Path | None, frame: "pd.DataFrame") -> None:
    from safesail.domain.text import spreadsheet_text
    from safesail.files import whole_file

    if path is None:
        return
    guarded = frame.map(lambda cell: spreadsheet_text(cell) if isinstance(cell, str) else cell)
    with whole_file(path) as partial:
        guarded.to_csv(partial, index=False)


def _records(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """Rows as JSON has them: what is missing is null."""
    import numpy as np
    import pandas as pd

    def cell(value: Any) -> Any:
        if isinstance(value, list | tuple | np.ndarray):
            return list(value)
        if pd.isna(value):
            return None
        return value.item() if isinstance(value, np.generic) else value

    return [{str(name): cell(value) for name, value in row.items()} for row in frame.to_dict("records")]


def _diagnosis(diagnosis: "Diagnosis") -> dict[str, Any]:
    tokens = diagnosis.tokens
    return {
        "prompt": diagnosis.prompt,
        "answer": diagnosis.answer,
        "tokens": [
            {"position": i, "token": token, "role": role, "start": span and span[0], "end": span and span[1]}
            for i, (token, role, span) in enumerate(
                zip(tokens.strings, tokens.roles, tokens.spans, strict=True)
            )
        ],
        "strongest": _records(diagnosis.strongest()),
        "unexplained": diagnosis.unexplained,
        "fired": _records(diagnosis.fired),
        "path": None if diagnosis.path is None else _path(diagnosis.path),
    }


def _path(path: "PredictionPath") -> dict[str, Any]:
    return {
        "target": path.target,
        "total": path.total,
        "kept": path.kept,
        "nodes": _records(path.nodes),
        "edges": _records(path.edges),
    }


def _comparison(compared: "Comparison") -> dict[str, Any]:
    return {
        "prompts_a": compared.n_a,
        "prompts_b": compared.n_b,
        "shown": compared.n_shown,
        "reason": compared.reason,
        "overlaps": compared.overlaps,
        "features": _records(compared.features),
    }


def _print_diagnosis(diagnosis: "Diagnosis", *, every: bool) -> None:
    if diagnosis.answer is not None:
        click.echo(f"answer: {diagnosis.answer}\n")
    table = diagnosis.strongest(tagged=not every)
    if table.empty and not every:
        click.echo("no feature with a tag fires; --all shows the strongest others\n")
    else:
        print_table(_table(_records(table), _STRONGEST))
        click.echo("")
    print_table([_defined(row, _UNEXPLAINED) for row in diagnosis.unexplained])
    if diagnosis.path is not None:
        path = diagnosis.path
        click.echo(f"\n{path.target!r} rests on (nats of log-odds; {path.kept:.0%} of all is shown):")
        print_table(_table(_records(path.strongest_first()), _TRACED))


def _print_comparison(compared: "Comparison", level: float) -> None:
    if compared.overlaps:
        print_table([_defined(row, _OVERLAP) for row in compared.overlaps])
        click.echo("")
    print_table(_table(_records(compared.features.head(SHOWN)), _COMPARED))
    if compared.reason is not None:
        click.echo(f"no p: {compared.reason}", err=True)
    else:
        click.echo(
            f"{compared.n_shown} of {len(compared.features)} features differ at q <= {level:g}", err=True
        )


_STRONGEST = ("feature", "normalised", "token", "n_tokens", "score", "chance_score", "explanation", "tags")
_TRACED = ("attribution", "feature", "token", "position", "score", "explanation")
_COMPARED = ("feature", "share_a", "share_b", "q", "score", "explanation", "tags")


def _table(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {name: ", ".join(row[name]) if isinstance(row[name], list) else row[name] for name in names}
        for row in records
    ]


def _defined(record: Any, names: Sequence[str]) -> dict[str, Any]:
    """A row of a table: what is undefined is a dash; --json has the reason."""
    from safesail.domain.undefined import Undefined

    values = {name: getattr(record, name) for name in names}
    return {name: None if isinstance(value, Undefined) else value for name, value in values.items()}


_UNEXPLAINED = ("sae", "n_features", "n_explained", "share_unexplained", "variance_unexplained")
_OVERLAP = ("sae", "translations", "unrelated", "low", "high")

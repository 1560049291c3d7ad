"""The dataset card of a release: what it is, how it was made, and what it is not."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from safesail.catalog.format import CARD, TABLES, Counts, Manifest, SaeEntry, WeightsEntry

_WHAT = {
    "features": "one row per feature: density and activation statistics, top tokens",
    "explanations": "texts, with who wrote them; failed and masked ones have no text",
    "tags": "domains and leaves, with their source",
    "scores": "simulation scores with 95 % interval, chance line, look-up baseline and reason where undefined",
    "exemplars": "windows of tokens with the feature's activation at each, strongest first",
    "concepts": "concepts that SAEs were selected by",
    "feature_concepts": "features that tell a concept's contrastive pairs apart",
    "effects": "what ablating, doubling and steering a feature changes, beside the same push along other directions",
}


def render_card(manifest: Manifest, scores: Sequence[Mapping[str, Any]], effects: Mapping[str, int]) -> str:
    """README.md of a release, with the front matter by which `datasets.load_dataset` finds the tables.

    Args:
        manifest: Of the release.
        scores: By method and simulator, as `score_summary` gives them.
        effects: Measured features by whether they are shown to do something.
    """
    return "\n".join(
        [*_front_matter(manifest), "", f"# {manifest.name}", "", *_intro(manifest), "", *_scores(scores), "",
         *_effects(effects), "",
         *_origins(manifest), "", *_reading(manifest), "", *_tables(manifest), "", *_limits(manifest), ""]
    )  # fmt: skip


def _front_matter(manifest: Manifest) -> list[str]:
    lines = [
        "---",
        f"pretty_name: {json.dumps(manifest.name)}",
        f"license: {json.dumps(manifest.licence)}",
        "tags: [interpretability, sparse-autoencoders, ai-safety]",
        "configs:",
    ]
    # A table without rows cannot be split, and `load_dataset` refuses it.
    for table in TABLES:
        if manifest.files[f"{table}.parquet"].rows:
            default = ["  default: true"] if table == "features" else []
            lines += [f"- config_name: {table}", f"  data_files: {table}.parquet", *default]
    return [*lines, "---"]


def _intro(manifest: Manifest) -> list[str]:
    counts = manifest.counts
    mean = "not scored" if counts.mean_score is None else f"mean score {counts.mean_score:.3f}"
    chance = "no chance line" if counts.mean_chance is None else f"chance {counts.mean_chance:.3f}"
    models = ", ".join(m.model_id for m in manifest.subject_models) or "unknown"
    return [
        f"Explanations of features of sparse autoencoders (SAEs). Version {manifest.version}, catalog release format"
        f" {manifest.format_version}, written by Safe-SAIL {manifest.code_version}.",
        "",
        f"- Subject model: {models}",
        *(f"- SAE: {_sae(sae)}" for sae in manifest.saes),
        f"- {counts.features:,} features; {counts.explained:,} with a readable explanation, {counts.masked:,}"
        f" explanations masked, {counts.failed:,} failed; {counts.tagged:,} features tagged",
        f"- {counts.scored:,} scores, {counts.undefined:,} undefined; {mean}, {chance}",
        *_lookup(counts),
        f"- Licence: {manifest.licence}",
        f"- Sensitivity: {manifest.sensitivity}",
    ]


def _lookup(counts: Counts) -> list[str]:
    if counts.mean_lookup is None:
        return []
    return [
        f"- Look-up: a table token -> mean activation, without any explanation, scores {counts.mean_lookup:.3f} on the"
        f" same texts; {counts.beyond_lookup:,} explanations know more than it, {counts.below_lookup:,} less, of the"
        " others neither is shown"
    ]


def _sae(sae: SaeEntry) -> str:
    width = "of unknown width" if sae.d_sae is None else f"{sae.d_sae:,} features"
    weights = "" if sae.sha256 is None else f", weights {sae.sha256[:12]}"
    return f"{sae.sae_id}: {sae.architecture or 'unknown architecture'}, {width}, at {sae.hook}{weights}"


def _scores(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    """How well the explanations predict, by the way in which that was measured; no mean over several ways."""
    lines = ["## How good are the explanations?", ""]
    if not scores:
        return [*lines, "Nobody has scored them. `safesail score` does, on texts of your own."]
    lines += [
        "A score is the correlation of what a simulator predicts from the explanation alone with what the feature does",
        "on texts that its explainer did not see. Chance: the same with another feature's explanation. Look-up: the",
        "same by a table token -> mean activation, without any explanation.",
        "",
        "| method | simulator | scored | undefined | failed | median | mean chance | above chance | above look-up |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in scores:
        median, chance = (_figure(row[name]) for name in ("median", "chance"))
        above = _share(row["above_chance"], row["comparable"])
        beyond = _share(row["beyond_lookup"], row["compared"])
        lines.append(
            f"| {_cell(row['method'])} | {_cell(row['simulator'])} | {row['scored']:,} | {row['undefined']:,}"
            f" | {row['failed']:,} | {median} | {chance} | {above} | {beyond} |"
        )
    return lines


def _effects(effects: Mapping[str, int]) -> list[str]:
    """How many features are shown to do something."""
    lines = ["## What do the features do?", ""]
    if not effects:
        return [*lines, "Nobody has measured it. `safesail intervene` does, with the model and the SAEs."]
    n, yes, no = sum(effects.values()), effects.get("yes", 0), effects.get("no", 0)
    return [
        *lines,
        f"Of {n:,} measured features {yes:,} are shown to do something: ablated or steered, they move the tokens that",
        "follow them in other texts, or their concept's words, more than the same push along other features'",
        f"directions (false discovery rate 10 %). {no:,} do less than any push; of the others neither is shown.",
    ]


def _share(n: int, of: int) -> str:
    return f"{n:,} of {of:,}" if of else "not measured"


def _figure(number: float | None) -> str:
    return "not measured" if number is None else f"{number:.3f}"


def _cell(text: object) -> str:
    """What others called something, as a cell of a Markdown table."""
    return re.sub(r"[|<>`\[\]\r\n]", " ", str(text))[:80]


def _origins(manifest: Manifest) -> list[str]:
    lines = [
        "## Where the explanations come from",
        "",
        "| origin | explanations | licence | from |",
        "|---|---|---|---|",
    ]
    for origin, n in manifest.origins.items():
        known = manifest.provenance.get(origin, {})
        own = origin == manifest.name
        licence = known.get("licence", manifest.licence if own else "as its publisher says")
        page = known.get("page", "made for this release" if own else "imported by its releaser")
        lines.append(f"| {_cell(origin)} | {n:,} | {_cell(licence)} | {_cell(page)} |")
    return lines


def _tables(manifest: Manifest) -> list[str]:
    lines = ["| table | rows | holds |", "|---|---|---|"]
    for table, what in _WHAT.items():
        lines.append(f"| {table} | {manifest.files[f'{table}.parquet'].rows or 0:,} | {what} |")
    return lines


def _reading(manifest: Manifest) -> list[str]:
    lines = [
        "## How to read it",
        "",
        "`sae_id` and `index` name a feature in every table. Read with anything that reads Parquet:",
        "",
        "```python",
        "import datasets, duckdb, pandas",
        "",
        'datasets.load_dataset("PATH", "explanations")["train"]',
        "duckdb.sql(\"SELECT text, value FROM 'PATH/explanations.parquet' JOIN 'PATH/scores.parquet'"
        ' USING (explanation_id) ORDER BY value DESC")',
        'pandas.read_parquet("PATH/features.parquet")',
        "```",
        "",
        "Or with Safe-SAIL, which checks every file first:",
        "",
        "```sh",
        "safesail catalog download hf:ORG/NAME --into all.duckdb",
        'safesail catalog search "what you look for" --store all.duckdb',
        "```",
        "",
    ]
    if manifest.weights:
        lines += [
            "SAEs that come along, as SAELens reads them (`SAE.load_from_disk`):",
            "",
            *(f"- `{sae.folder}`: {_cell(sae.sae_id)}, {_size(manifest, sae)}, licence {_cell(sae.licence)}"
              for sae in manifest.weights),
            "",
            "```python",
            "import safesail",
            "",
            'model = safesail.load("MODEL", ["PATH/saes"], catalog="PATH")',
            'model.features("a prompt")',
            "```",
            "",
        ]  # fmt: skip
    return [*lines, f"manifest.json holds the SHA-256 of every file, of {CARD} too."]


def _size(manifest: Manifest, sae: WeightsEntry) -> str:
    return f"{sum(manifest.files[name].bytes for name in sae.files) / 2**20:,.1f} MiB"


def _limits(manifest: Manifest) -> list[str]:
    lines = [
        "## Limits",
        "",
        "- A score is the Pearson correlation of a simulator's guess with the feature's activity, pooled over held-out"
        " windows. Read it against the chance line: the same figure with another feature's explanation.",
        "- `lookup` is the score of a table token -> mean activation on the same texts. An explanation knows more than"
        " a look-up where the interval of the difference, `gain_low` to `gain_high`, lies above 0, and less where it"
        " lies below.",
        "- An explanation describes the texts it was made from. It is no proof of what a feature does in the model.",
        "- `undefined` and `failed` rows are part of the result; a mean over the others alone is too good.",
        "- Scores of imported explanations are as their source gave them, and may have been computed another way.",
    ]
    if manifest.redacted:
        lines.append(
            f"- Texts of these domains are masked: {', '.join(manifest.redacted)}. Scores and counts remain."
        )
        lines.append(
            "- Windows in which a feature of a masked domain reaches its 0.9 quantile are left out for all features;"
            " the others may still hold a word of it."
        )
    if manifest.min_score is not None:
        lines.append(
            f"- Only features with a score of at least {manifest.min_score} are here: a selected sample."
        )
    return lines

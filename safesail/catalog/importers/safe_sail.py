"""Safe-SAIL's released database: `"{layer}_{index}" -> {explanation, correlation_score, tag_list}`."""

import re
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from safesail.catalog.gather import Gathered
from safesail.catalog.importers.rows import FileRow, Text, files_of
from safesail.catalog.reading import read_json
from safesail.domain.ids import FeatureId
from safesail.errors import DataError

METHOD = "correlation"
"""The file says `correlation_score` and no more."""

FOLDER = "*_db.json"
_KEY = re.compile(r"^(\d{1,4})_(\d{1,9})$")
_LANGUAGES = {"cn": "zh"}


class Entry(FileRow):
    """One feature."""

    model_config = ConfigDict(extra="forbid")

    explanation: Text | None
    correlation_score: float | None
    tag_list: list[Text]


def fits(content: Any) -> bool:
    """Does a JSON document look like this format?"""
    key, entry = next(iter(content.items()), ("", None)) if isinstance(content, dict) else ("", None)
    return bool(_KEY.match(key)) and isinstance(entry, dict) and "correlation_score" in entry


def read(source: Path, into: Gathered) -> None:
    """One file, or a folder with one `<lang>_db.json` per language.

    Raises:
        ConfigError: the options do not name the subject model.
        DataError: not in this format.
    """
    model = into.model_of(str(source))
    files = sorted(files_of(source, FOLDER), key=lambda path: not path.name.startswith("en"))
    first: dict[str, Entry] = {}
    for path in files:
        content = read_json(path)
        if not isinstance(content, dict):
            raise DataError(f"{path} must be an object")
        entries = {key: Entry.read(entry, f"{path}: {key!r}") for key, entry in content.items()}
        for key, entry in entries.items():
            _add(f"{path}: {key!r}", key, entry, (model, into.options.lang or _language(path)), into)
        if first:
            _compare(first, entries, into)
        first = first or entries


def _language(path: Path) -> str:
    prefix, _, rest = path.name.partition("_")
    return _LANGUAGES.get(prefix, prefix) if rest == "db.json" and len(prefix) == len("en") else "en"


def _add(where: str, key: str, entry: Entry, source: tuple[str, str], into: Gathered) -> None:
    match, (model, lang) = _KEY.match(key), source
    if match is None:
        raise DataError(f"{where} is not named layer_index, in whole numbers")
    layer = int(match[1])
    feature = FeatureId(into.sae(f"l{layer}", layer=layer, model=model), int(match[2]))
    into.feature(feature)
    explanation_id = into.explanation(feature, entry.explanation, lang=lang)
    if explanation_id is not None:
        score = entry.correlation_score
        reason = {"reason": "the source has no score"} if score is None else {}
        into.score(feature, explanation_id, score, method=METHOD, **reason)
    if len(set(entry.tag_list)) != len(entry.tag_list):
        into.fault("repeated tag", where)
    into.tags(feature, entry.tag_list)


def _compare(first: dict[str, Entry], other: dict[str, Entry], into: Gathered) -> None:
    """Two languages of one database should agree but for the text."""
    for key in sorted(first.keys() ^ other.keys()):
        into.fault("in one language only", key)
    for key in sorted(first.keys() & other.keys()):
        one, two = first[key], other[key]
        if (one.correlation_score, one.tag_list) != (two.correlation_score, two.tag_list):
            into.fault("languages disagree", key)
